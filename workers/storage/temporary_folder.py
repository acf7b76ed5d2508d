"""Temporary folders of a run: its user's alone, and swept up by the next run where their owner was killed.

Whoever made a folder holds the lock in it for as long as it lives, and the system lets go of that however it ends. So a
folder whose lock is free has no owner any more; one without the lock file is none of ours.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "es-"
"""Short, because Ray's sockets lie deep in such a folder, and a path to a socket has at most 107 characters."""
_LOCK = "erasure-sweep.lock"


class TemporaryFolder:
    """A new folder that nobody else can look into, until it is closed.

    Args:
        parent: where it is made; by default where this process keeps temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _sweep_up(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            self._lock = FileLock(self.path / _LOCK, thread_local=False)
            with suppress(FileNotFoundError):  # another run took it for one that was left, before it was locked
                self._lock.acquire()
                if (self.path / _LOCK).exists():
                    return

    def close(self) -> None:
        """Remove it; what a process that is still ending keeps in it goes with the next run."""
        _empty(self.path)
        self._lock.release()
        _remove(self.path)


def _sweep_up(parent: Path) -> None:
    """Remove what killed processes of this user left."""
    with suppress(OSError):
        for path in parent.glob(f"{PREFIX}*"):
            with suppress(OSError, Timeout):
                about = path.lstat()
                if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or not (path / _LOCK).is_file():
                    continue
                with FileLock(path / _LOCK, timeout=0):
                    _empty(path)
                _remove(path)


def _empty(folder: Path) -> None:
    """Remove all but the lock."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove a folder in which nothing but the lock is left."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
        folder.rmdir()
