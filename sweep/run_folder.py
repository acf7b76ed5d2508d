"""Where a run leaves things: one class owns every path below OUT, and one function writes what must survive a crash."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from erasure_sweep.sweep.store.driver_process import DriverProcess, InUseError, read_driver
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.printed_commands import command
from erasure_sweep.workers.storage.whole_file import whole_file, write_error

FIGURES = "figures"
"""Folder of single figures, below a model's folder; in OUT itself those of the comparison that were exported."""

OWN_FILES = ("manifest.json", "compare.html", "run.log", "replication.csv", "replication.md", FIGURES)
"""What stands in OUT beside the models' folders."""

MODEL_PAGE = "index.html"
"""The page of a model, below its folder."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent: temporary name, synced, renamed.

    Raises:
        SweepError: the disk is full or the folder cannot be written.
    """
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise write_error(path, error) from error


class RunFolder:
    """The folder OUT of a sweep: every path in it, its manifest, and who works there.

    Args:
        out: need not be there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.own_store = out / ".store"
        """Finished shards, unless the sweep's config names a store elsewhere."""
        self.log = out / "run.log"
        self.manifest = out / "manifest.json"
        self.comparison = out / "compare.html"
        self._driver = out / ".driver.json"
        self._lock = FileLock(out / ".lock", timeout=0)

    @classmethod
    def found(cls, out: Path) -> RunFolder:
        """An OUT as it stands, of whatever sweep.

        Raises:
            UsageError: the folder is no OUT.
        """
        folder = cls(out.expanduser())
        if not any(path.exists() for path in (folder.manifest, folder._driver, folder.own_store)):
            raise UsageError(f"{out} holds no run (it has no manifest.json): name a run's folder, such as runs/demo")
        return folder

    def tables(self, folder: str) -> Path:
        """Folder of a model's tables."""
        return self.out / folder / "tables"

    def figures(self, folder: str) -> Path:
        """Folder of a model's figures, one by one."""
        return self.out / folder / FIGURES

    def model_page(self, folder: str) -> Path:
        """The page that holds all of a model's figures."""
        return self.out / folder / MODEL_PAGE

    def discard_results(self, folder: str) -> None:
        """Remove a model's tables, figures and page."""
        for path in (self.tables(folder), self.figures(folder)):
            shutil.rmtree(path, ignore_errors=True)
        self.model_page(folder).unlink(missing_ok=True)

    @contextmanager
    def held_by(self, driver: DriverProcess) -> Iterator[None]:
        """Make OUT, and keep it for this process until the block ends.

        Raises:
            InUseError: another run works in it.
            SweepError: it cannot be written.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise self._refusal() from error
        except OSError as error:
            raise write_error(self.out, error) from error
        try:
            write_atomically(self._driver, json.dumps(driver._asdict()).encode())
            yield
        finally:
            with suppress(OSError):
                self._driver.unlink(missing_ok=True)
            self._lock.release()

    def _refusal(self) -> InUseError:
        holder = self.noted_driver()
        who = f" ({holder.where})" if holder else ""
        return InUseError(
            f"another run{who} is working in {self.out}: wait for it, stop it ({command('stop', self.out)}) or choose "
            "another --out"
        )

    def noted_driver(self) -> DriverProcess | None:
        """Who works in OUT, or was killed while it did; ``None`` where nobody does."""
        try:
            return read_driver(json.loads(self._driver.read_bytes()))
        except (OSError, ValueError):
            return None

    def working_driver(self) -> DriverProcess | None:
        """Who works in OUT now; of one on another machine that is told by OUT's lock."""
        driver = self.noted_driver()
        if driver is None:
            return None
        works = self._is_locked() if driver.is_alive is None else driver.is_alive
        return driver if works else None

    def _is_locked(self) -> bool:
        """Whether another process holds OUT, as far as its file system tells."""
        try:
            with self._lock:
                return False
        except (Timeout, OSError):
            return True

    def read_manifest(self) -> Manifest | None:
        """The manifest, or ``None`` where no run has been.

        Raises:
            UsageError: there is one, but it is not a manifest.
        """
        if not self.manifest.exists():
            return None
        try:
            return Manifest.model_validate_json(self.manifest.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.manifest} is damaged: choose another --out, or run with --fresh to start over"
            ) from error

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        write_atomically(self.manifest, manifest.to_bytes())


def folder_names(names: list[str], taken: dict[str, str]) -> dict[str, str]:
    """A safe and unique folder for each model name.

    Args:
        names: of models, with parent folders where these tell them apart, and checkpoint or revision behind an ``@``.
        taken: folders that an earlier run of the sweep gave, by key.
    """
    folders = dict(taken)
    refused = {*OWN_FILES, *(folder.lower() for folder in folders.values())}
    for name in names:
        if name in folders:
            continue
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"
        candidates = [stem, *(f"{stem}-{i}" for i in range(2, len(refused) + 3))]
        folders[name] = next(c for c in candidates if c.lower() not in refused)
        refused.add(folders[name].lower())
    return folders
