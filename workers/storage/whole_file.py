"""Files that are whole or absent, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erasure_sweep.workers.errors import SweepError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of files that are being written."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, its folder made: what is written there is synced and renamed in the end.

    After an error, an interrupt too, nothing stays. A process that is killed leaves ``.NAME.….tmp``. Who may read the file
    the umask says, whatever the library that writes it prefers.

    Raises:
        OSError: the folder cannot be made, or the file not synced or renamed.
    """
    with temporary_beside(path) as temporary:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors writes a file of its own, for its owner alone
            temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)


def create_whole(path: Path, content: bytes) -> bool:
    """Write a file where there is none yet: of several who try at the same time, one succeeds.

    Returns:
        Whether this one did.

    Raises:
        OSError: it cannot be written.
    """
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        _sync(temporary)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_in_place(path, content)
        return True


def _create_in_place(path: Path, content: bytes) -> bool:
    """The same without links; a machine that fails meanwhile may leave a part of it."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def remove_left(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove from a folder, not from those below, what killed processes left half-written; what fails stays.

    Args:
        older_than_s: leave what was written since; where others may be writing.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found = path.lstat()
                is_ours = TEMPORARY.fullmatch(path.name) and stat.S_ISREG(found.st_mode)
                if is_ours and time.time() - found.st_mtime >= older_than_s:
                    path.unlink()


def write_error(path: Path, error: OSError) -> SweepError:
    """The line for a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SweepError(f"no room on the disk for {path}: free some, then run again to go on")
    return SweepError(f"{path} cannot be written ({error.strerror}): choose another --out or --store")


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name beside ``path``, its folder made; nothing of that name stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    finally:
        with suppress(OSError):  # it may be the folder itself that is not to be had
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
