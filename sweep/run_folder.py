"""Where a run leaves things: one class owns every path below OUT, and one function writes what must survive a crash."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.plan import sweep_id
from erasure_sweep.sweep.store.driver_process import Driver, InUseError, read_driver, this_driver
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.storage.shard_storage import joined
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
    """The folder OUT of one sweep.

    Args:
        config: names the folder and the store.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.out = Path(config.out).expanduser() if config.out else Path("runs") / config.name
        self.store = joined(config.store, sweep_id(config)) if config.store else str(self.out / ".store")
        """Address of the finished shards: a store that is named may hold those of several sweeps."""
        self.log = self.out / "run.log"
        self.manifest = self.out / "manifest.json"
        self.comparison = self.out / "compare.html"
        self.driver = this_driver(config.name, sweep_id(config), self.out, os.getpid())
        self._driver = self.out / ".driver.json"
        self._lock = FileLock(self.out / ".lock", timeout=0)

    @classmethod
    def found(cls, out: Path) -> RunFolder:
        """An OUT as it stands, of whatever sweep.

        Raises:
            UsageError: the folder is no OUT.
        """
        folder = cls(SweepConfig(models=["any"], out=str(out)))
        if not any(path.exists() for path in (folder.manifest, folder._driver, folder.out / ".store")):
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

    def acquire(self) -> None:
        """Make OUT and take it for this process.

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
            write_atomically(self._driver, json.dumps(self.driver._asdict()).encode())
        except SweepError:
            self.close()
            raise

    def _refusal(self) -> InUseError:
        holder = self.read_driver()
        who = f" ({holder.where})" if holder else ""
        return InUseError(
            f"another run{who} is working in {self.out}: wait for it, stop it (erasure-sweep stop {self.out}) or choose "
            "another --out"
        )

    def read_driver(self) -> Driver | None:
        """Who works in OUT, or was killed while it did; ``None`` where nobody does."""
        try:
            return read_driver(json.loads(self._driver.read_bytes()))
        except (OSError, ValueError):
            return None

    def is_locked(self) -> bool:
        """Whether another process holds OUT, as far as its file system tells."""
        try:
            with self._lock:
                return False
        except (Timeout, OSError):
            return True

    def close(self) -> None:
        """Let other runs have OUT."""
        with suppress(OSError):
            self._driver.unlink(missing_ok=True)
        self._lock.release()

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, or ``None`` where no run has been.

        Raises:
            UsageError: there is one, but it is not a manifest.
        """
        if not self.manifest.exists():
            return None
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            manifest = None
        if not _is_manifest(manifest):
            raise UsageError(f"{self.manifest} is damaged: choose another --out, or run with --fresh to start over")
        return dict(manifest)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        write_atomically(self.manifest, (json.dumps(manifest, indent=1, default=str) + "\n").encode())


def _is_manifest(values: Any) -> bool:
    """Whether this has what is read of a manifest: damage is found here, not where a key is missed."""
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        return False
    models = values.get("models")
    needed = ("name", "folder", "state")
    return isinstance(models, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in needed) for entry in models
    )


def staging_folder(config: SweepConfig) -> Path:
    """Where processed weights and token arrays are kept for all sweeps of this user."""
    named = config.staging or os.environ.get("ERASURE_SWEEP_STAGING")
    return Path(named).expanduser() if named else Path("~/.cache/erasure-sweep").expanduser()


def folder_names(names: list[str], taken: dict[str, str]) -> dict[str, str]:
    """A safe and unique folder for each model name.

    Args:
        names: unique keys whose last path part is the model's name, with its checkpoint or revision behind an ``@``.
        taken: folders that an earlier run of the sweep gave, by key.
    """
    folders = dict(taken)
    refused = {*OWN_FILES, *(folder.lower() for folder in folders.values())}
    for name in names:
        if name in folders:
            continue
        path, at, point = name.partition("@")  # a revision may hold slashes that part no folders
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.rstrip("/").rsplit("/", 1)[-1] + at + point).strip("._") or "model"
        candidates = [stem, *(f"{stem}-{i}" for i in range(2, len(refused) + 3))]
        folders[name] = next(c for c in candidates if c.lower() not in refused)
        refused.add(folders[name].lower())
    return folders
