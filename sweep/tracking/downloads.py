"""Logged sweeps, one's own or other people's, from MLflow back into folders that read like a run's OUT.

Everything needed was logged: the sweep's run has the manifest among its artifacts, a model's run its tables; ``role``,
``sweep_id`` and ``model_hash`` among the tags say which run is what. Where a manifest is absent (the run was cut short) or
does not name a model (another folder's run of the same sweep replaced it), the runs' parameters stand in. Of a sweep
that was logged with another schema there are only the names. Nothing is written to the store.

A model's entry in the manifest gains ``home``: links to its page and tables among the artifacts, and to its run.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from erasure_sweep.sweep.config import PROTOCOL_TEXTS, PROTOCOL_VALUES
from erasure_sweep.sweep.run_folder import MODEL_PAGE, folder_names
from erasure_sweep.sweep.tracking.artifact_places import found_beside, local_folder
from erasure_sweep.sweep.tracking.mlflow_store import TrackingStore
from erasure_sweep.sweep.tracking.store_address import run_url, server_address, sqlite_path
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.manifest import Links, Manifest, ManifestConfig, ManifestEntry, ManifestHead
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

_SHAPE = ("n_layers", "n_heads", "d_model", "d_mlp", "n_ctx", "d_vocab", "attn_only", "n_params")
_MEASURED = ("n_prompts", "n_tokens")
_TRAINING = ("training_tokens", "training_steps")
"""Not logged where they are not known."""
_NAMES = ("hash", "act_fn", "corpus_fingerprint", "base", "corpus_name")


def download_experiment(uri: str, experiment: str, to: Path, say: Callable[[str], object] = log.info) -> list[Path]:
    """Fetch the tables of an experiment's finished models.

    Of a model that was logged twice in one sweep the newest finished run counts.

    Args:
        uri: the MLflow store.
        experiment: its name there.
        to: an empty folder.
        say: hears where artifacts were found that are not where the store has them.

    Returns:
        A folder for each sweep of the experiment, oldest first, as ``workers.tables.sweep_folder.read_out`` takes them.

    Raises:
        UsageError: there is no such store or experiment, or it holds no sweep.
        SweepError: the store does not answer.
        DataError: a run lacks artifacts that it should have, or they are damaged.
    """
    logged = _Experiment(uri, experiment)
    sweeps = _by_tag(logged.runs("sweep"), "sweep_id")
    models = _by_tag(logged.runs("model"), "sweep_id")
    if not models:
        raise UsageError(f"experiment {experiment!r} in MLflow at {logged.shown} holds no models of a sweep")
    folders = []
    for sweep_id, runs in models.items():
        folder = to / _safe(f"{experiment}-{sweep_id[:8]}")
        _download_sweep(logged, sweeps.get(sweep_id, []), runs, folder)
        folders.append(folder)
    if logged.found_in is not None:
        say(f"{experiment}: the store says another place, its artifacts were found beside it in {logged.found_in}")
    return folders


class _Experiment:
    """The runs of one experiment, to be read."""

    def __init__(self, uri: str, name: str) -> None:
        self.name = name
        self.found_in: Path | None = None
        """Where artifacts were found that are not where the store has them."""
        self._store = TrackingStore(uri)
        self._store.check_readable()
        with self._store.reading():
            found = self._store.client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != "active":
                raise UsageError(self._store.no_experiment(name))
            self._id = str(found.experiment_id)

    @property
    def shown(self) -> str:
        """The store's address."""
        return self._store.shown

    def run_url(self, run: Run) -> str | None:
        """Address of a run's page on the store's server; None where it has none."""
        return run_url(self._store.uri, self._id, run.info.run_id)

    def file_link(self, run: Run, path: str) -> str | None:
        """Where a browser gets an artifact: from the store's server, or from this disk."""
        if server := server_address(self._store.uri):
            return f"{server}/get-artifact?path={quote(path, safe='')}&run_uuid={run.info.run_id}"
        folder = self._moved(run) or local_folder(run.info.artifact_uri or "")
        is_there = folder is not None and (folder / path).is_file()
        return (folder / path).absolute().as_uri() if folder is not None and is_there else None

    def page_link(self, run: Run, path: str) -> str | None:
        """Where a browser shows an artifact that is a page: MLflow's server only offers its files to be saved."""
        shown = self.run_url(run)
        return f"{shown}/artifacts/{quote(path)}" if shown else self.file_link(run, path)

    def runs(self, role: str) -> list[Run]:
        """All runs of this role, oldest first."""
        with self._store.reading():
            return self._store.runs(self._id, f"tags.role = '{role}'")

    def _moved(self, run: Run) -> Path | None:
        """The folder of a run's artifacts where the store was moved or copied with them since."""
        database = sqlite_path(self._store.uri)
        beside = found_beside(database, run.info.artifact_uri or "") if database else None
        if beside is None or not beside.is_dir():
            return None
        self.found_in = beside.parent.parent
        return beside

    def artifacts(self, run: Run, folder: str | None = None) -> list[str]:
        """Paths of a run's artifacts in a folder."""
        if moved := self._moved(run):
            below = moved / (folder or "")
            return sorted(path.relative_to(moved).as_posix() for path in below.iterdir()) if below.is_dir() else []
        with self._store.reading():
            return [str(item.path) for item in self._store.client.list_artifacts(run.info.run_id, folder)]

    def download(self, run: Run, path: str, to: Path) -> Path:
        """Fetch one artifact, a file, into the folder ``to``."""
        to.mkdir(parents=True, exist_ok=True)
        target = to / Path(path).name
        if moved := self._moved(run):
            return Path(shutil.copyfile(moved / path, target))
        try:
            # kinds of stores differ in whether they keep the path below the folder that they are given
            with tempfile.TemporaryDirectory(dir=to) as fetched, self._store.reading():
                found = self._store.client.download_artifacts(run.info.run_id, path, fetched)
                return Path(found).replace(target)
        except SweepError as error:
            raise DataError(f"{path} of {_said(run)} cannot be fetched: {error}") from error


def _download_sweep(logged: _Experiment, sweeps: list[Run], runs: list[Run], folder: Path) -> None:
    """One sweep's manifest, its models' states as MLflow has them, and the tables of the finished ones."""
    manifest = _manifest(logged, sweeps, runs[-1], folder)
    is_ours = manifest.schema_version == SCHEMA_VERSION
    described = {entry.hash: entry.to_json() for entry in manifest.models}
    newest = [max(same, key=_standing) for same in _by_tag(runs, "model_hash").values()]
    entries = [_entry(run) for run in newest]
    entries = [{**entry, **described.get(entry["hash"], {}), "state": entry["state"]} for entry in entries]
    _tell_apart(entries)
    folders = folder_names([entry["name"] for entry in entries], {})
    for run, entry in zip(newest, entries, strict=True):
        entry["folder"] = folders[entry["name"]]
        entry["run_url"] = logged.run_url(run) or entry.get("run_url")
        if entry["state"] == "FINISHED" and is_ours:
            tables = _download_tables(logged, run, folder / entry["folder"] / "tables")
            entry["home"] = _links(logged, run, tables, entry["run_url"])
    sweep_url = logged.run_url(sweeps[-1]) if sweeps else None
    models = tuple(ManifestEntry(**entry) for entry in entries)
    manifest = manifest.model_copy(update={"run_url": sweep_url or manifest.run_url, "models": models})
    (folder / "manifest.json").write_bytes(manifest.to_bytes())


def _standing(run: Run) -> tuple[bool, int, str]:
    return run.info.status == "FINISHED", run.info.start_time, run.info.run_id


def _links(logged: _Experiment, run: Run, tables: list[str], run_url: str | None) -> Links:
    """Where a model's page and tables are; without a page in runs that were logged before models had one."""
    page = logged.page_link(run, MODEL_PAGE) if MODEL_PAGE in logged.artifacts(run) else None
    links = {Path(path).stem: link for path in tables if (link := logged.file_link(run, path))}
    return Links(page=page, tables=links, run=run_url)


def _download_tables(logged: _Experiment, run: Run, folder: Path) -> list[str]:
    """Fetch a model's tables; returns their paths among its artifacts."""
    tables = [path for path in logged.artifacts(run, "tables") if path.endswith(".parquet")]
    if not tables:
        raise DataError(
            f"{_said(run)} has no tables among its artifacts, which should be in {run.info.artifact_uri}: bring them there or "
            "beside the store, or run its sweep again to log them anew"
        )
    for path in tables:
        logged.download(run, path, folder)
    return tables


def _manifest(logged: _Experiment, sweeps: list[Run], model: Run, folder: Path) -> Manifest:
    """The newest manifest of the sweep; what the runs themselves say where none was logged."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in reversed(sweeps):
        if "manifest.json" in logged.artifacts(run):
            return _read_manifest(run, logged.download(run, "manifest.json", folder))
    run = sweeps[-1] if sweeps else model
    tags = ("sweep_id", "version", "git_commit", "device_type")
    return Manifest(
        **{key: run.data.tags.get(key) for key in tags},
        name=logged.name,
        schema_version=SCHEMA_VERSION,
        config=ManifestConfig(**_params(run, PROTOCOL_VALUES, PROTOCOL_TEXTS)),
        models=(),
    )


def _read_manifest(run: Run, path: Path) -> Manifest:
    """A manifest that was logged; of another schema only what can be told of any."""
    try:
        content = path.read_bytes()
        head = ManifestHead.model_validate(parse_json(content))
        if head.schema_version not in (None, SCHEMA_VERSION):
            name, version = str(head.name), str(head.schema_version)
            return Manifest(name=name, schema_version=version, config=ManifestConfig(), models=())
        manifest = Manifest.parse(content)
    except (OSError, ValueError) as error:
        raise DataError(f"manifest.json of {_said(run)} is damaged: run the sweep again to log it anew") from error
    return manifest


def _entry(run: Run) -> dict[str, Any]:
    """What a model's run says of it, as a manifest's entry."""
    name = run.data.tags.get("model") or run.info.run_name
    return {
        "name": name,
        "spec": name,
        **dict.fromkeys(_TRAINING),
        **_params(run, (*_SHAPE, *_MEASURED, *_TRAINING), _NAMES),
        "hash": run.data.tags["model_hash"],
        "corpus": _corpus(run),
        "state": run.info.status,
        "reason": run.data.tags.get("reason"),
    }


def _corpus(run: Run) -> str | None:
    """The corpus' description, which is the source of the run's dataset; its name where there is none."""
    sources = [used.dataset.source for used in run.inputs.dataset_inputs if used.dataset.source_type == "corpus"]
    found: str | None = parse_json(sources[0])["uri"] if sources else run.data.params.get("corpus")
    return found


def _params(run: Run, values: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """Parameters as they were before MLflow made text of them; ``names`` were text."""
    params = run.data.params
    found: dict[str, Any] = {key: params[key] for key in names if key in params}
    return found | {key: _value(params[key]) for key in values if key in params}


def _value(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _tell_apart(entries: list[dict[str, Any]]) -> None:
    """Add the hash to names that several models of a sweep have: weights that changed between its runs."""
    seen = Counter(entry["name"] for entry in entries)
    for entry in entries:
        if seen[entry["name"]] > 1:
            entry["name"] = f"{entry['name']} {entry['hash'][:8]}"


def _by_tag(runs: list[Run], tag: str) -> dict[str, list[Run]]:
    """Runs grouped by a tag, in order of the oldest of each group; those without it, which are not ours, left out."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if tag in run.data.tags:
            groups.setdefault(run.data.tags[tag], []).append(run)
    return groups


def _said(run: Run) -> str:
    return f"run {run.info.run_name} ({run.info.run_id})"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
