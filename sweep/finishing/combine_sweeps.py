"""One page on the finished models of several sweeps.

Within a sweep all models are measured alike; across sweeps they may not be. So each model carries what its sweep was
measured with, and the page says in words where that differs. A model that several sweeps measured alike stands once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.pages import write_comparison
from erasure_sweep.dashboards.wording import of_sweep
from erasure_sweep.sweep.run_folder import MODEL_PAGE
from erasure_sweep.workers.corpora.resolve_corpus import OWN
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.manifest import Manifest, ManifestConfig, ManifestHead
from erasure_sweep.workers.printed_commands import quoted
from erasure_sweep.workers.storage.small_files import parse_json, read_small_file
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.files import SchemaError
from erasure_sweep.workers.tables.sweep_folder import ModelTables, model_folder, read_manifest, read_model

_PROTOCOL = ("prompts", "seq_len", "pack", "positions", "first_position", "corpus", "seed", "dtype", "tau", "ln")
_MADE_WITH = ("device_type", "version", "git_commit", "schema_version")


class ComparedModels(NamedTuple):
    """The finished models of several sweeps, under names that tell them apart."""

    models: list[ModelTables]
    sweep: Manifest
    """One manifest for all."""
    homes: dict[str, Home]
    """By the models' names; hrefs as seen from the page's folder."""
    left_out: list[str]
    """Lines on models of other schemas."""


class _Folder(NamedTuple):
    """A sweep as its folder has it."""

    path: Path
    manifest: Manifest
    models: list[ModelTables]
    unread: list[tuple[str, str | None]]
    """Names of models of other schemas, with these."""


def compare_folders(folders: list[Path], to: Path) -> list[str]:
    """Write one page on all finished models of several sweeps' folders.

    A model's name leads to its own page, and its numbers to its tables and its run, where these can be reached.

    Returns:
        A line on each sweep with models that were left out, because they are of another schema.

    Raises:
        UsageError: a folder holds no sweep, none has a finished model, or ``to`` is a folder.
        DataError: a manifest or a table is damaged, or all models are of other schemas.
        SweepError: the page cannot be written.
    """
    if to.is_dir():
        raise UsageError(f"{to} is a folder: name the page to write, such as {quoted('--to', to / 'compare.html')}")
    compared = gather(folders, to.parent)
    try:
        write_comparison(compared.models, to, compared.sweep, compared.homes, compared.left_out)
    except OSError as error:
        raise SweepError(f"{to} cannot be written ({error.strerror}): choose another --to") from error
    return compared.left_out


def gather(folders: list[Path], page_folder: Path) -> ComparedModels:
    """The finished models of several sweeps' folders, each once; ``page_folder`` is where their page is to stand.

    Raises:
        UsageError: a folder holds no sweep, or none has a finished model.
        DataError: a manifest or a table is damaged, or all models are of other schemas.
    """
    sweeps = [_read(path) for path in {folder.resolve(): folder for folder in folders}.values()]
    labels = _labels(sweeps)
    left_out = [line for sweep, label in zip(sweeps, labels, strict=True) for line in _unread(sweep, label)]
    homes = _merge_same(sweeps, page_folder)
    _tell_apart(sweeps, labels)
    models = [model for sweep in sweeps for model in sweep.models if model.about.is_finished]
    if not models and left_out:
        raise DataError(
            f"{'; '.join(left_out)}; no model remains: run these sweeps again with this version, or use the one that wrote them"
        )
    if not models:
        raise UsageError(f"no model is finished of sweep {', '.join(labels)}: `erasure-sweep run` goes on with it")
    named = {model.about.name: homes[id(model.tables)] for model in models}
    return ComparedModels(models, _together(sweeps), named, left_out)


def _read(path: Path) -> _Folder:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise UsageError(f"{path} holds no sweep (it has no manifest.json): name a run's folder, such as runs/demo")
    try:
        values = read_manifest(manifest)
    except SchemaError as error:
        head = ManifestHead.model_validate(parse_json(read_small_file(manifest)))
        names = head.model_names or [f"all of {path}"]
        other = Manifest(name=str(head.name), config=ManifestConfig(), models=())
        return _Folder(path, other, [], [(name, error.told) for name in names])
    models, unread = [], []
    for entry in values.models:
        try:
            model = read_model(path, entry)
        except SchemaError as error:
            unread.append((entry.name, error.told))
            continue
        if entry.corpus_name is None and values.config.corpus != OWN:  # as runs before did not say it of models
            model = model._replace(about=entry.model_copy(update={"corpus_name": values.config.corpus}))
        models.append(model._replace(sweep=values))
    return _Folder(path, values, models, unread)


def _unread(sweep: _Folder, label: str) -> Iterable[str]:
    """A line for each other schema in a sweep."""
    for found in dict.fromkeys(version for _, version in sweep.unread):
        names = [name for name, version in sweep.unread if version == found]
        were = "was" if len(names) == 1 else "were"
        schema = "without a schema" if found is None else f"with schema {found}"
        yield f"{', '.join(names)} (sweep {label}) {were} logged {schema}, this version reads {SCHEMA_VERSION}: left out"


def _merge_same(sweeps: list[_Folder], page_folder: Path) -> dict[int, Home]:
    """Leave each model that sweeps measured alike in one of them, and say by ``id`` of its tables where it is.

    It stays where most of it was measured, else in the first; what is not to be had there leads to another.
    """
    homes = {id(model.tables): _home(sweep, model, page_folder) for sweep in sweeps for model in sweep.models}
    same: dict[tuple[Any, ...], list[ModelTables]] = {}
    for sweep in sweeps:
        seen: Counter[tuple[Any, ...]] = Counter()  # what one sweep has under two names stays two
        for model in sweep.models:
            measured = _measured(sweep, model)
            same.setdefault((measured, seen[measured]), []).append(model)
            seen[measured] += 1
    staying = set()
    for models in same.values():
        kept = id(max(models, key=_standing).tables)  # the first of equals
        for other in models:
            homes[kept] = _filled(homes[kept], homes[id(other.tables)])
        staying.add(kept)
    for sweep in sweeps:
        sweep.models[:] = [model for model in sweep.models if id(model.tables) in staying]
    return homes


def _measured(sweep: _Folder, model: ModelTables) -> tuple[Any, ...]:
    """What is the same for models that are the same and measured alike."""
    known = (model.about.hash, sweep.manifest.sweep_id, model.about.corpus_fingerprint)
    return known if all(known) else (id(model.tables),)


def _standing(model: ModelTables) -> tuple[bool, int]:
    return model.about.is_finished, len(model.about.stages)


def _filled(home: Home, other: Home) -> Home:
    return Home(home.page or other.page, home.tables or other.tables, home.run or other.run)


def _home(sweep: _Folder, model: ModelTables, page_folder: Path) -> Home:
    """Where a model's page, tables and run are, as seen from the folder of the comparison."""
    if links := model.about.home:
        return Home(links.page, links.tables, links.run)
    return home_of(model, model_folder(sweep.path, model.about.folder), page_folder)


def home_of(model: ModelTables, folder: Path, page_folder: Path) -> Home:
    """Where the page, tables and run are of a model in this folder, as seen from a page in another."""

    def href(path: Path) -> str:
        # a browser that follows a link to the page's folder goes up from where that really is
        return quote(Path(os.path.relpath(path.resolve(), page_folder.resolve())).as_posix())

    page = folder / MODEL_PAGE
    tables = {name: href(folder / "tables" / f"{name}.parquet") for name in model.tables}
    return Home(href(page) if page.is_file() else None, tables, model.about.run_url)


def _tell_apart(sweeps: list[_Folder], labels: list[str]) -> None:
    """Add the sweep to the names of models that several sweeps have."""
    seen = Counter(model.about.name for sweep in sweeps for model in sweep.models)
    for sweep, label in zip(sweeps, labels, strict=True):
        for index, (about, *_) in enumerate(sweep.models):
            if seen[about.name] > 1:
                renamed = about.model_copy(update={"name": f"{about.name} · {label}"})
                sweep.models[index] = sweep.models[index]._replace(about=renamed)


def _labels(sweeps: list[_Folder]) -> list[str]:
    """What tells the sweeps apart: their names, else their folders' names, else the folders' paths."""
    candidates = (
        [str(sweep.manifest.name) for sweep in sweeps],
        [sweep.path.resolve().name for sweep in sweeps],
        [str(sweep.path) for sweep in sweeps],
    )
    return next((labels for labels in candidates if len(set(labels)) == len(labels)), candidates[-1])


def _together(sweeps: list[_Folder]) -> Manifest:
    """One manifest for all: what they share as it is, what differs side by side."""
    shown = [sweep.manifest for sweep in sweeps if sweep.models]

    def values(key: str) -> Any:
        known = [value for manifest in shown if (value := of_sweep(manifest, key)) is not None]
        different = list(dict.fromkeys(str(value) for value in known))
        return " / ".join(different) if len(different) > 1 else next(iter(known), None)

    return Manifest(
        **{key: values(key) for key in _MADE_WITH},
        config=ManifestConfig(**{key: values(key) for key in _PROTOCOL}),
        models=tuple(model.about for sweep in sweeps for model in sweep.models),
    )
