"""What can be removed: each thing with its names, its size and when it was last used, and which of them are meant."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple


class Removable(NamedTuple):
    """Something that a command may remove."""

    what: str
    names: frozenset[str]
    """By which people may mean it; empty where nobody noted one."""
    size: int
    """Bytes."""
    used: float | None
    """When it was last used, in seconds since 1970 by the clock of where it lies."""
    now: float
    """The present by the same clock."""
    in_use: str
    """Who works with it; empty where nobody does."""
    remove: Callable[[], None]
    """Raises ``InUseError`` where somebody does by now, else ``SweepError`` or ``OSError`` where it cannot."""


class CleaningRequest(NamedTuple):
    """What is meant: that has one of these names, and was not used for so long."""

    names: frozenset[str]
    """Empty: any."""
    older_than: timedelta | None

    def means(self, found: Removable) -> bool:
        """Whether this is to be removed."""
        if self.names and not self.names & found.names:
            return False
        if self.older_than is None:
            return True
        return found.used is not None and found.now - found.used >= self.older_than.total_seconds()


def size_of(files: Iterable[Path]) -> tuple[int, float | None]:
    """Bytes of files, and when the newest of them was written; those that are gone are left out."""
    size, newest = 0, None
    for path in files:
        with suppress(FileNotFoundError):
            stat = path.stat()
            size, newest = size + stat.st_size, max(newest or 0.0, stat.st_mtime)
    return size, newest


def clock_of(folder: Path) -> float:
    """The present by the clock of a folder's file system; by this machine's where it cannot be written."""
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
    except OSError:
        return time.time()
    with suppress(OSError):
        probe.unlink()
    return now


def unlink(files: Iterable[Path]) -> None:
    """Remove files; those that are gone are passed over.

    Raises:
        OSError: one cannot be removed.
    """
    for path in files:
        path.unlink(missing_ok=True)


def prune(folder: Path) -> None:
    """Remove folders that hold nothing, and this one if it does not either."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # it is not empty
            Path(path).rmdir()
