"""Which staged files running drivers use, so that ``clean`` leaves them: a record of each driver in ``STAGING/in-use``.

A driver touches its record with every beat and removes it in the end. One of a driver on this machine counts as long as
that process lives, any other as long as it was touched within ``STALE_S``. Until a driver knows which files it uses,
while models are prepared, it uses all. A staging folder that cannot be written is one that cannot be cleaned from here
either, so what fails is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.sweep.store.driver_process import DriverProcess, read_driver
from erasure_sweep.workers.storage.own_staging import NAMES, mark_staging
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.storage.whole_file import remove_left, whole_file

STALE_S = 600.0
"""After so long without a beat nobody works any more, on whatever machine."""

_FOLDER = "in-use"

_LEFT_S = 86_400.0
"""What is being written for so long is not written any more."""


class StagedFilesInUse:
    """What one driver uses of a staging folder.

    Args:
        staging: the folder.
        driver: the record's content, beside the files.
    """

    def __init__(self, staging: Path, driver: DriverProcess) -> None:
        self._staging, self._driver = staging, driver
        self._record = staging / _FOLDER / f"{driver.holder}.json"
        self._files: list[Path] | None = None

    def start(self) -> None:
        """Use everything, until the files are known; what killed runs of this machine left there goes."""
        mark_staging(self._staging)
        for name in NAMES:
            remove_left(self._staging / name, older_than_s=_LEFT_S)
        for use in read_uses(self._staging):
            if use.driver.is_alive is False:
                with suppress(OSError):
                    use.path.unlink(missing_ok=True)
        self._write()

    def of(self, files: Iterable[Path]) -> None:
        """Use these files of the staging folder, now."""
        self._files = [path for path in dict.fromkeys(files) if path.is_relative_to(self._staging)]
        _touch(self._files)
        self._write()

    def beat(self) -> None:
        """Say that they are still in use."""
        if self._record.is_file():
            _touch([self._record])
        else:
            self._write()

    def end(self) -> None:
        """Use them no longer."""
        _touch(self._files or [])
        with suppress(OSError):
            self._record.unlink(missing_ok=True)

    def _write(self) -> None:
        files = None if self._files is None else [path.relative_to(self._staging).as_posix() for path in self._files]
        with suppress(OSError), whole_file(self._record) as temporary:
            temporary.write_text(json.dumps({**self._driver._asdict(), "files": files}), encoding="utf-8")


def _touch(files: Iterable[Path]) -> None:
    """Set the time of last use."""
    for path in files:
        with suppress(OSError):
            os.utime(path)


class UseRecord(NamedTuple):
    """What stands in a staging folder about a driver that uses it."""

    path: Path
    driver: DriverProcess
    files: frozenset[Path] | None
    """``None``: all, for all that is known."""
    beat: float
    """When it was last touched, by the clock of the file system."""

    def is_live(self, now: float) -> bool:
        """Whether the driver works, at ``now`` by the clock of the file system."""
        alive = self.driver.is_alive
        return now - self.beat < STALE_S if alive is None else alive


def read_uses(staging: Path) -> list[UseRecord]:
    """The records of a staging folder, those of drivers that are gone too; damaged ones are left out."""
    found = []
    for path in sorted((staging / _FOLDER).glob("*.json")):
        with suppress(OSError, ValueError):  # it was just removed
            values, beat = parse_json(path.read_text(encoding="utf-8")), path.stat().st_mtime
            driver = read_driver(values)
            if driver is not None:
                files = values.get("files")
                known = None if files is None else frozenset(staging / name for name in files)
                found.append(UseRecord(path, driver, known, beat))
    return found
