"""From finished shards to tables and pages, and to what the next stage is planned from: run in the background process.

States are read in plan order, a block of writers at a time, so the tables depend on nothing but the plan, and no more than a
block's are copied from a store that is elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from erasure_sweep.dashboards.model_tables import ModelTables, folder_of, read_out
from erasure_sweep.dashboards.pages import model_parts, write_comparison, write_figures, write_model_page
from erasure_sweep.sweep.comparison import home_of
from erasure_sweep.sweep.run_folder import FIGURES
from erasure_sweep.sweep.store.shards import BlockKeys, VerifyKeys
from erasure_sweep.workers.measures.registry import SCAN
from erasure_sweep.workers.measures.scan.tables import scan_tables
from erasure_sweep.workers.measures.verify.places import found_places
from erasure_sweep.workers.measures.verify.tables import Told, verify_tables
from erasure_sweep.workers.measures.verify.targets import choose_targets
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.resolution import load_model
from erasure_sweep.workers.records import Group, Place, Resolved, ScanOptions, State, Target, Thresholds, WriterBlock
from erasure_sweep.workers.storage.shard_storage import Storage, open_storage
from erasure_sweep.workers.storage.states import decode_state, decode_states
from erasure_sweep.workers.storage.whole_file import write_error
from erasure_sweep.workers.tables.files import read_tables, write_tables


def finish_scan(
    model: Resolved,
    store: str,
    blocks: BlockKeys,
    options: ScanOptions,
    thresholds: Thresholds,
    named: tuple[Sequence[str], tuple[Group, ...], int],
    tables_folder: Path,
) -> tuple[Target, ...]:
    """Merge a model's scan, write its tables, and say what to verify.

    Args:
        store: location of the finished shards.
        named: the writers and groups that the user named, and how many writers to take where none is.
    """
    lean = load_model(Path(model.weights))[1]
    columns = scan_tables(lean, _merged(lean, open_storage(store), blocks, options), options, thresholds)
    write_tables(columns, model.name, "scan", tables_folder)
    writers, groups, top = named
    return choose_targets(lean.config.layout, columns["writers"], groups, writers, top)


def find_places(store: str, keys: list[str], targets: tuple[Target, ...], n: int) -> tuple[Place, ...]:
    """Where the verified writers have their highest attributions, from the shards of the substage ``group``."""
    with open_storage(store).local(keys) as paths:
        return found_places([{"places": decode_state(path.read_bytes(), "places")} for path in paths], targets, n)


def finish_verify(
    model: Resolved,
    store: str,
    shards: VerifyKeys,
    targets: tuple[Target, ...],
    places: tuple[Place, ...],
    tau: float,
    folder: Path,
) -> None:
    """Merge what verify measured of a model and write its tables.

    Args:
        store: location of the finished shards.
        places: all that were tested.
        folder: for the tables.
    """
    told = Told(targets, model.held_out, tau, model.seq_len, places, model.given, model.tokens, model.tokenizer)
    storage = open_storage(store)
    columns = verify_tables(
        load_model(Path(model.weights))[1],
        told,
        _states(storage, shards.group),
        [(writers, _states(storage, keys)) for writers, keys in shards.trust],
        _states(storage, shards.adversarial),
    )
    write_tables(columns, model.name, "verify", folder)


def write_page(about: dict[str, Any], tables_folder: Path, page: Path, sweep: dict[str, Any]) -> None:
    """Write a model's page from its tables, and beside it the figures that are pages of their own.

    Args:
        about: the model's entry in the manifest.
        sweep: the manifest.
    """
    model = ModelTables(about, read_tables(tables_folder))
    parts = model_parts(model)
    folder, figures = page.parent, page.parent / FIGURES
    up, figures_up = ("../compare.html", "all models of this sweep"), (f"../{page.name}", "everything on this model")
    try:
        write_model_page(model, page, sweep, home_of(model, folder, folder), up, parts)
        write_figures(model, figures, home_of(model, folder, figures), figures_up, parts)
    except OSError as error:
        raise write_error(page, error) from error


def _merged(
    model: LeanModel, storage: Storage, blocks: BlockKeys, options: ScanOptions
) -> Iterator[tuple[WriterBlock, dict[str, State]]]:
    for writers, keys in blocks:
        with storage.local(keys) as paths:
            merged = {name: m.merge(model, writers, options, _of_measure(paths, name)) for name, m in SCAN.items()}
        yield writers, merged


def _of_measure(paths: list[Path], measure: str) -> Iterator[State]:
    return (decode_state(path.read_bytes(), measure) for path in paths)


def _states(storage: Storage, keys: list[str]) -> list[dict[str, State]]:
    with storage.local(keys) as paths:
        return [decode_states(path.read_bytes()) for path in paths]


def compare_models(out: Path, page: Path) -> None:
    """Write the page that puts all finished models of a folder side by side."""
    sweep = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    models = read_out(out)
    homes = {model.about["name"]: home_of(model, out / folder_of(model.about), page.parent) for model in models}
    try:
        write_comparison(models, page, sweep, homes)
    except OSError as error:
        raise write_error(page, error) from error
