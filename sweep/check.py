"""Checking what runs left: every finished shard, table and manifest, and the staged files that were read.

What the next run of the sweep would find is found here without it, and a line tells each; nothing is changed. What carries no
checksum, because an earlier version wrote it, or is not there any more, cannot be checked: that is said as well.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import StagedFiles, check_staged
from erasure_sweep.sweep.run import staging_folder
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import InUseError
from erasure_sweep.sweep.store.lease import KEY
from erasure_sweep.sweep.store.shards import batches
from erasure_sweep.sweep.terminal.progress import count
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.manifest import Manifest, ManifestEntry, NewerError
from erasure_sweep.workers.storage.own_staging import NAMES
from erasure_sweep.workers.storage.shard_storage import (
    MARK,
    NUMERICS,
    STATE_KEY,
    FolderStorage,
    Storage,
    StorageError,
    joined,
    open_storage,
    shard_of,
)
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.storage.states import is_of_another_version, is_whole
from erasure_sweep.workers.storage.whole_file import TEMPORARY
from erasure_sweep.workers.tables.files import carries_checksum, read_table
from erasure_sweep.workers.tables.registry import TABLES

_KEY = re.compile(r"(?:[0-9a-f]{32}/)?(?P<own>.+)")
"""Of an object in a store, which may hold one sweep or several."""


class Check:
    """Takes down what is not as it should be, and what could not be checked."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.unchecked: list[str] = []
        self.whole: Counter[str] = Counter()
        """How many things of a kind were checked and are as they should be."""

    def store(self, storage: Storage) -> None:
        """Check every finished shard of a store, of one sweep or of several."""
        older, others, sizes = 0, 0, {}
        listed = storage.keys()
        for entry in listed:
            own = _KEY.fullmatch(entry.key)
            key = own["own"] if own else entry.key
            if STATE_KEY.fullmatch(key):
                sizes[entry.key] = entry.size
            elif key in (KEY, NUMERICS):
                self._record(storage, entry.key)
            else:
                others += key != MARK
        for batch in batches(sizes, sizes):
            for key, sealed in storage.get_many(batch).items():
                if is_whole(sealed, shard_of(key)):
                    self.whole["finished shard"] += 1
                elif is_of_another_version(sealed):
                    older += 1
                else:
                    self.findings.append(f"{storage.address}/{key} is damaged, or another shard's")
        if isinstance(storage, FolderStorage):
            self._left_half_written(Path(storage.address), os.walk(storage.address))
        if older:
            self.unchecked.append(f"{count(older, 'finished shard')} of another version, which this one leaves out")
        if others:
            self.unchecked.append(f"{count(others, 'file')} in {storage.address} that no version of this puts there")

    def _record(self, storage: Storage, key: str) -> None:
        try:
            if not isinstance(parse_json(storage.get(key) or b"{}"), dict):
                raise ValueError("it is no JSON object")
        except ValueError:
            self.findings.append(f"{storage.address}/{key} is damaged")

    def _left_half_written(self, root: Path, folders: Iterable[tuple[str, list[str], list[str]]]) -> None:
        paths = (Path(folder, name) for folder, _, names in folders for name in names if TEMPORARY.fullmatch(name))
        self.findings += [f"{path} was left half-written by a run that was killed" for path in sorted(paths)]

    def out(self, folder: RunFolder, staging: str | None) -> None:
        """Check a run's folder, its store and the staged files that its models were measured with.

        Raises:
            NewerError: a later version wrote it.
            InUseError: a run works in it.
        """
        if driver := folder.working_driver():
            raise InUseError(f"{driver.where} is working in {folder.out}: check it when that has ended")
        manifest = self._manifest(folder)
        own = [path for path in folder.out.iterdir() if not path.is_symlink() and path != folder.own_store]
        walked = (each for path in own if path.is_dir() for each in os.walk(path))
        self._left_half_written(folder.out, [(str(folder.out), [], [path.name for path in own]), *walked])
        if folder.set_aside_results.is_dir():
            self.findings.append(
                f"{folder.set_aside_results} holds results that were about to be replaced when a run was ended"
            )
        if manifest is not None:
            for entry in manifest.models:
                self._model(folder, entry)
            if any(entry.is_finished for entry in manifest.models) and not folder.comparison.exists():
                self.findings.append(f"{folder.comparison} is missing")
            self._staged(manifest.models, staging_folder(staging or manifest.config.staging))
        self._store_of(folder, manifest)

    def _manifest(self, folder: RunFolder) -> Manifest | None:
        """The manifest or, where it is damaged, its copy."""
        try:
            manifest = folder.read_manifest()
        except NewerError:
            raise
        except UsageError:
            self.findings.append(f"{folder.manifest} is damaged")
            return folder.restore_manifest()
        if manifest is None:
            self.findings.append(f"{folder.manifest} is missing")
            return None
        if folder.is_checksummed():
            self.whole["manifest"] += 1
            if folder.restore_manifest() is None:
                self.findings.append(f"the copy of {folder.manifest} is missing or damaged")
        else:
            self.unchecked.append(f"{folder.manifest}, which carries no checksum (version {manifest.version})")
        return manifest

    def _model(self, folder: RunFolder, entry: ManifestEntry) -> None:
        """Check a model's folder: that it is OUT's own, its tables and its page."""
        try:
            tables, page = folder.tables(entry.folder), folder.model_page(entry.folder)
        except DataError as error:
            self.findings.append(str(error))
            return
        bare = 0
        for name in TABLES:
            path = tables / f"{name}.parquet"
            if not path.exists():
                if name in entry.tables:
                    self.findings.append(f"{path} is missing")
                continue
            try:
                wrong = _unlike_declared(path, entry.name)
            except DataError as error:
                self.findings.append(str(error).partition(": run the sweep again")[0])
                continue
            if wrong:
                self.findings.append(f"{path} {wrong}")
            elif carries_checksum(path):
                self.whole["table"] += 1
            else:
                bare += 1
        if bare:
            self.unchecked.append(
                f"{count(bare, 'table')} of {entry.name}, without checksums, as version 0.1.0 wrote them"
            )
        if entry.is_finished and not page.exists():
            self.findings.append(f"{page} is missing")

    def _staged(self, entries: Iterable[ManifestEntry], staging: Path) -> None:
        """Check the weights and token arrays that the models were measured with, where they are still staged."""
        gone = 0
        asked: list[StagedFiles] = []
        for entry in entries:
            weights, tokens = (_staged_path(staging, *each) for each in _named_files(entry))
            gone += (weights is None) + (tokens is None)
            if weights or tokens:
                asked.append(StagedFiles(weights, entry.hash, tokens, entry.corpus_fingerprint, entry.n_prompts))
        if gone:
            self.unchecked.append(
                f"{count(gone, 'staged file')}, not named or not in {staging} any more: made anew when needed"
            )
        if asked:
            with closing(HelperProcess()) as helper:
                for files in asked:
                    found = helper.submit(check_staged, files).result()
                    self.findings += found
                    self.whole["staged file"] += (files.weights is not None) + (files.tokens is not None) - len(found)

    def _store_of(self, folder: RunFolder, manifest: Manifest | None) -> None:
        """Check the store that a run's folder names, else its own."""
        named = manifest.config.store if manifest else None
        if named and "***" in named:
            self.unchecked.append(f"the store {named}: its password is kept nowhere, check it by its whole address")
            return
        address = joined(named, str(manifest.sweep_id)) if named and manifest else str(folder.own_store)
        try:
            self.store(open_storage(address))
        except StorageError as error:
            self.findings.append(str(error))


def check(target: str, staging: str | None = None) -> Check:
    """Check a run's folder or a store, and change nothing.

    Args:
        target: OUT, or the folder or URI of a store.
        staging: folder of staged files; by default the one of the run.

    Raises:
        UsageError: there is nothing of the kind.
        SweepError: it cannot be read, or a run works in it.
    """
    found, path = Check(), Path(target).expanduser()
    left = (path / name for name in ("manifest.json", ".manifest.json", ".driver.json", ".store"))
    if "://" not in target and any(each.exists() for each in left):
        found.out(RunFolder(path), staging)
    elif "://" not in target and not path.is_dir():
        raise UsageError(f"{target} is no folder: name a run's folder, such as runs/demo, or a store")
    else:
        found.store(open_storage(target))
        if not found.whole and not found.findings and not found.unchecked:
            raise UsageError(f"{target} holds neither a run nor finished shards: name a run's folder, or a store")
    return found


def _unlike_declared(path: Path, model: str) -> str:
    """In which way a table is not as declared, or another model's; empty where it is neither."""
    frame, table = read_table(path), TABLES[path.stem]
    names = [column.name for column in table.columns]
    if missing := [name for name in names if name not in frame.columns]:
        return f"lacks the column {', '.join(missing)}"
    others = sorted({str(each) for each in frame["model"].unique()} - {model})
    return f"is of another model ({', '.join(others)})" if others else ""


def _named_files(entry: ManifestEntry) -> Iterator[tuple[str, str | None]]:
    yield "models", entry.weights_file
    yield "corpora", entry.tokens_file


def _staged_path(staging: Path, folder: str, name: str | None) -> Path | None:
    """A staged file that a manifest names, if it is there; a name that none has is none."""
    if name is None or not NAMES[folder].fullmatch(name):
        return None
    path = staging / folder / name
    return path if path.is_file() else None
