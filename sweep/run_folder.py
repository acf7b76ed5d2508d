"""Where a run leaves things: one class owns every path below OUT, and one function writes what must survive a crash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from erasure_sweep.sweep.store.driver_process import DriverProcess, InUseError, has_open, read_driver
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.printed_commands import command
from erasure_sweep.workers.storage.small_files import parse_json, read_small_file
from erasure_sweep.workers.storage.whole_file import remove_left, whole_file, write_error
from erasure_sweep.workers.tables.registry import TABLES
from erasure_sweep.workers.tables.sweep_folder import PARTS, model_folder

FIGURES = "figures"
"""Folder of single figures, below a model's folder; in OUT itself those of the comparison that were exported."""

OWN_FILES = ("manifest.json", "compare.html", "run.log", "replication.csv", "replication.md", FIGURES)
"""What stands in OUT beside the models' folders."""

MODEL_PAGE = "index.html"
"""The page of a model, below its folder."""

IMAGES = ("svg", "png", "pdf")
"""Figures that `export` puts beside the others."""


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
        self.set_aside_results = out / ".replaced"
        """Results that others are about to replace, by their models' folders."""
        self._copy = out / ".manifest.json"
        """Of the manifest, should that be damaged."""
        self.comparison = out / "compare.html"
        self._driver = out / ".driver.json"
        self._lock_file = out / ".lock"
        self._lock = FileLock(self._lock_file, timeout=0)

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
        """Folder of a model's tables; like the next two, ``DataError`` where it would lie out of OUT."""
        return model_folder(self.out, folder) / "tables"

    def figures(self, folder: str) -> Path:
        """Folder of a model's figures, one by one."""
        return model_folder(self.out, folder) / FIGURES

    def model_page(self, folder: str) -> Path:
        """The page that holds all of a model's figures."""
        return model_folder(self.out, folder) / MODEL_PAGE

    def set_aside(self, folder: str) -> None:
        """Keep a model's results elsewhere in OUT until others that take their place are whole.

        Raises:
            SweepError: they cannot be moved.
        """
        own, kept = model_folder(self.out, folder), self.set_aside_results / folder
        if kept.exists():  # of an earlier run that did not get far: what it began goes
            _remove_results(own)
            return
        try:
            for part in PARTS:
                if (own / part).exists():
                    kept.mkdir(parents=True, exist_ok=True)
                    (own / part).rename(kept / part)
        except OSError as error:
            raise write_error(kept, error) from error

    def forget_set_aside(self, folder: str) -> None:
        """Remove results that were replaced."""
        kept = self.set_aside_results / folder
        _remove_results(kept)
        for path in (kept, kept.parent):
            with suppress(OSError):  # it is not there, or somebody put something into it
                path.rmdir()

    def remove_left(self, folder: str) -> None:
        """Remove what killed processes left of half-written files in a model's folder, in which nobody writes now."""
        for path in (self.out / folder, self.tables(folder), self.figures(folder)):
            remove_left(path)

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
            self._sweep_up()
            write_atomically(self._driver, json.dumps(driver._asdict()).encode())
            yield
        finally:
            with suppress(OSError):
                self._driver.unlink(missing_ok=True)
            self._lock.release()

    def _sweep_up(self) -> None:
        """Remove what runs that were killed left half-written."""
        models = [path for path in self.out.iterdir() if path.is_dir() and not path.is_symlink()]
        for folder in (self.out, *models, *(model / part for model in models for part in PARTS)):
            if not folder.is_symlink():
                remove_left(folder)

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
            return read_driver(parse_json(self._driver.read_bytes()))
        except (OSError, ValueError):
            return None

    def working_driver(self) -> DriverProcess | None:
        """Who works in OUT now: it keeps OUT's lock open, or on another machine holds it.

        What is noted is not enough for that: the file may be a copy, and the process of that number anybody's.
        """
        driver = self.noted_driver()
        if driver is None:
            return None
        works = (
            self._is_locked() if driver.is_alive is None else driver.is_alive and has_open(driver.pid, self._lock_file)
        )
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
            NewerError: a later version wrote it.
            UsageError: there is one, but it is not a manifest.
        """
        try:
            return self._read(self.manifest)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.manifest} is damaged: the next `erasure-sweep run` of its sweep restores it; what is measured is kept"
            ) from error

    def refuse_newer(self) -> None:
        """See that no later version wrote this OUT; a damaged manifest says nothing of that.

        Raises:
            NewerError: one did.
        """
        with suppress(OSError, ValueError):
            self._read(self.manifest)

    def restore_manifest(self) -> Manifest | None:
        """The manifest from its copy, where it is damaged itself; ``None`` where that is as well.

        Raises:
            NewerError: a later version wrote it.
        """
        try:
            return self._read(self._copy)
        except (OSError, ValueError):
            return None

    def _read(self, path: Path) -> Manifest | None:
        return Manifest.parse(read_small_file(path), str(self.out)) if path.exists() else None

    def is_checksummed(self) -> bool:
        """Whether the manifest carries a checksum, as those of version 0.1.0 do not."""
        return b'"checksum": "' in read_small_file(self.manifest)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest and its copy."""
        content = manifest.to_bytes()
        for path in (self.manifest, self._copy):
            write_atomically(path, content)


def _remove_results(folder: Path) -> None:
    """Remove from a model's folder what this project writes there, and nothing else."""
    tables, figures, page = (folder / part for part in PARTS)
    left = [page, *(tables / f"{name}.parquet" for name in TABLES), *figures.glob("*.html")]
    left += [path for kind in IMAGES for path in figures.glob(f"*.{kind}")]
    for path in left:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    for path in (tables, figures):
        with suppress(OSError):
            path.rmdir()


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
