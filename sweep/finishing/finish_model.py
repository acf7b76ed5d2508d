"""From finished shards to tables and pages, and to what the next stage is planned from: run in the background process.

States are read in plan order, a block of writers at a time, so the tables depend on nothing but the plan, and no more than a
block's are copied from a store that is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from erasure_sweep.dashboards.pages import model_parts, write_comparison, write_figures, write_model_page
from erasure_sweep.sweep.finishing.combine_sweeps import home_of
from erasure_sweep.sweep.helper.tasks import (
    ComparisonRequest,
    MeansMerge,
    NullMerge,
    PageRequest,
    PlaceSearch,
    ScanMerge,
    VerifyMerge,
)
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.workers.corpora.token_texts import TokenTexts
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.projection import Projection, merge_term_means
from erasure_sweep.workers.measures.states_to_tables import merge_states, stage_tables
from erasure_sweep.workers.measures.verify.high_places import HighPlaces, found_places
from erasure_sweep.workers.measures.verify.null_shares import NullShares, null_erasers
from erasure_sweep.workers.measures.verify.stream_covariance import StreamCovariance, stream_covariance
from erasure_sweep.workers.measures.verify.targets import choose_targets
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.resolve_model import load_model
from erasure_sweep.workers.records import (
    AdversarialWork,
    ChosenTargets,
    GroupWork,
    NullErasers,
    PathsWork,
    Place,
    ScanWork,
    StagedArray,
    State,
    TrustWork,
    Work,
)
from erasure_sweep.workers.storage.shard_storage import Storage, open_storage, shard_of
from erasure_sweep.workers.storage.staged_arrays import write_array
from erasure_sweep.workers.storage.states import decode_state
from erasure_sweep.workers.storage.whole_file import write_error
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.trust import THRESHOLDS
from erasure_sweep.workers.tables.files import read_table, read_tables, write_tables
from erasure_sweep.workers.tables.registry import TABLES
from erasure_sweep.workers.tables.sweep_folder import ModelTables, read_model


def stage_means(request: MeansMerge) -> StagedArray:
    """Merge the means of a model's terms over its scan, in plan order, and stage them for the stages behind it."""
    with _states_of(Projection, request.store, request.keys) as states:
        means = merge_term_means(states)
    return write_array(Path(request.weights), means)


def stage_covariance(request: MeansMerge) -> StagedArray:
    """Merge the stream's covariance where verified writers write, in plan order, and stage it for the stages behind."""
    with _states_of(StreamCovariance, request.store, request.keys) as states:
        covariance = stream_covariance(states)
    return write_array(Path(request.weights), covariance)


def find_null_erasers(request: NullMerge) -> tuple[NullErasers, ...]:
    """Who takes out what stands in the verified writers' places, as many heads as any of the writer's groups has."""
    with _states_of(NullShares, request.store, request.keys) as states:
        return null_erasers(request.layout, request.targets, request.draws, states)


def finish_scan(request: ScanMerge) -> ChosenTargets:
    """Merge a model's scan, write its tables, and say what to verify."""
    lean, named = load_model(Path(request.model.weights))[1], request.named
    storage, setting = open_storage(request.store), Setting(request.thresholds.tau)
    blocks: dict[str, list[tuple[Work, list[str]]]] = {
        "scan": [(ScanWork(writers, request.options), keys) for writers, keys in request.blocks],
        "paths": [(PathsWork(writers, True), keys) for writers, keys in request.paths],
    }
    columns: dict[str, Columns] = {}
    for stage, work in blocks.items():
        with _as_sealed(stage):
            columns |= stage_tables(stage, _merged(stage, lean, storage, work), setting, columns)
    write_tables(columns, request.model.name, "scan", request.tables)
    tables = {name: pd.DataFrame(table) for name, table in columns.items()}
    return choose_targets(lean.config.layout, tables, named.groups, named.writers, named.top)


def find_places(request: PlaceSearch) -> tuple[Place, ...]:
    """Where the verified writers have their highest attributions, from the shards of the substage ``group``."""
    with _states_of(HighPlaces, request.store, request.keys) as states:
        return found_places(states, request.targets, request.n_places, request.seed)


def finish_verify(request: VerifyMerge) -> None:
    """Merge what verify measured of a model and write its tables."""
    model, shards = request.model, request.shards
    nulls = request.nulls.erasers if request.nulls else ()
    group, places = GroupWork(request.targets, 0, nulls=nulls), AdversarialWork(request.places, model.given, (), False)
    blocks: dict[str, list[tuple[Work, list[str]]]] = {
        "group": [(group, shards.group)],
        "trust": [(TrustWork(writers, 0), keys) for writers, keys in shards.trust],
        "adversarial": [(places, shards.adversarial)],
    }
    lean, storage = load_model(Path(model.weights))[1], open_storage(request.store)
    texts = TokenTexts(model.tokenizer, model.tokens, model.given)
    setting = Setting(request.tau, model.held_out, texts, request.trust)
    tables: dict[str, Columns] = {}
    for stage, work in blocks.items():
        measured = ((each, keys) for each, keys in work if keys)
        with _as_sealed(stage):
            tables |= stage_tables(stage, _merged(stage, lean, storage, measured), setting)
    write_tables(tables, model.name, "verify", request.tables, {"dla_trust": {THRESHOLDS: request.trust.noted}})


def write_page(request: PageRequest) -> None:
    """Write a model's page from its tables, and beside it the figures that are pages of their own."""
    out, sweep, entry = RunFolder(request.out), request.manifest, request.manifest.entry(request.name)
    model = ModelTables(entry, read_tables(out.tables(entry.folder)))
    parts = model_parts(model)
    page, figures = out.model_page(entry.folder), out.figures(entry.folder)
    folder = page.parent
    up, figures_up = ("../compare.html", "all models of this sweep"), (f"../{page.name}", "everything on this model")
    try:
        write_model_page(model, page, sweep, home_of(model, folder, folder), up, parts)
        write_figures(model, figures, home_of(model, folder, figures), figures_up, parts)
    except OSError as error:
        raise write_error(page, error) from error


def _merged(
    stage: str, model: LeanModel, storage: Storage, blocks: Iterable[tuple[Work, list[str]]]
) -> Iterator[tuple[Block[Any], dict[str, State]]]:
    """Merged states of each block of shards."""
    for work, keys in blocks:
        block = Block(model, work)
        with storage.local(keys) as paths:
            merged = merge_states(stage, block, partial(_of_measure, keys, paths))
        yield block, merged


@contextmanager
def _states_of(measure: type[Measure[Any, Any, Any]], store: str, keys: list[str]) -> Iterator[Iterator[State]]:
    """What a measure left in finished shards, in plan order, while they are at hand."""
    with open_storage(store).local(keys) as paths, _as_sealed(measure.stage):
        yield _of_measure(keys, paths, measure.name)


@contextmanager
def _as_sealed(stage: str) -> Iterator[None]:
    """Say of finished shards whose seal is right that they hold other arrays than those that are merged."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"finished shards of {stage} are sealed and do not hold what is merged ({error!r}): measure anew with --fresh"
        ) from error


def _of_measure(keys: list[str], paths: list[Path], measure: str) -> Iterator[State]:
    for key, path in zip(keys, paths, strict=True):
        yield decode_state(path.read_bytes(), shard_of(key), measure)


def discard_damaged_tables(folders: Sequence[Path], stages: Sequence[str]) -> list[str]:
    """Remove tables that cannot be read, and say of each whether these stages make it anew.

    Raises:
        NewerError: a later version wrote one.
    """
    said = []
    for path in (folder / f"{name}.parquet" for folder in folders for name in TABLES):
        if not path.exists():
            continue
        try:
            read_table(path)
        except DataError as error:
            path.unlink()
            missing = [stage for stage in TABLES[path.stem].stages if stage not in stages]
            how = f"; of its {missing[0]} by `run --stage all`" if missing else ""
            said.append(f"{error.args[0].partition(': ')[0]}: made anew from the finished shards{how}")
    return said


def compare_models(request: ComparisonRequest) -> list[str]:
    """Write the page that puts all finished models of an OUT side by side; returns a line on each that is left out."""
    out, sweep = request.out, request.manifest
    page = RunFolder(out).comparison
    models, left_out = [], []
    for entry in sweep.models:
        try:
            models.append(read_model(out, entry))
        except DataError as error:
            left_out.append(f"{entry.name} is left out of {page.name}: {error}")
    homes = {model.about.name: home_of(model, out / model.about.folder, page.parent) for model in models}
    try:
        write_comparison(models, page, sweep, homes)
    except OSError as error:
        raise write_error(page, error) from error
    return left_out
