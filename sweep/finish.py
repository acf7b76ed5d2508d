"""From finished shards to tables and pages: the end of a model, run in the background process.

States are read in plan order, a block of writers at a time, so the tables depend on nothing but the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dashboards.pages import write_comparison, write_model_page
from dashboards.tables import ModelTables, read_out
from sweep.config import SCHEMA_VERSION
from sweep.files import MODEL_PAGE, write_atomically, write_error
from workers.encoding import decode_state
from workers.measures import SCAN
from workers.measures.tables import scan_tables
from workers.models import load_model
from workers.records import ScanOptions, State, Thresholds, WriterBlock
from workers.trace import LeanModel

BlockFiles = list[tuple[WriterBlock, list[Path]]]
"""For each block of writers the files of its shards, in plan order."""


def finish_model(
    about: dict[str, Any],
    weights: Path,
    blocks: BlockFiles,
    options: ScanOptions,
    thresholds: Thresholds,
    sweep: dict[str, Any],
    tables_folder: Path,
    page: Path,
) -> None:
    """Merge a model's shards and write its tables and its page.

    Args:
        about: the model's entry in the manifest.
        weights: the model's processed weights.
        sweep: the manifest.
    """
    tables = merge_tables(about["name"], load_model(weights)[1], blocks, options, thresholds)
    for name, table in tables.items():
        write_table(table, tables_folder / f"{name}.parquet")
    try:
        write_model_page(ModelTables(about, tables), page, sweep)
    except OSError as error:
        raise write_error(page, error) from error


def merge_tables(
    name: str, model: LeanModel, blocks: BlockFiles, options: ScanOptions, thresholds: Thresholds
) -> dict[str, pd.DataFrame]:
    """All tables of a model, its name in the first column."""
    tables = scan_tables(model, _merged(model, blocks, options), options, thresholds)
    return {table: pd.DataFrame({"model": name, **columns}) for table, columns in tables.items()}


def _merged(
    model: LeanModel, blocks: BlockFiles, options: ScanOptions
) -> Iterator[tuple[WriterBlock, dict[str, State]]]:
    for writers, paths in blocks:
        yield writers, {name: m.merge(model, writers, options, _states(paths, name)) for name, m in SCAN.items()}


def _states(paths: list[Path], measure: str) -> Iterator[State]:
    return (decode_state(path.read_bytes(), measure) for path in paths)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet, with the version of the schema in its metadata; NaN becomes null."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"schema_version": SCHEMA_VERSION.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(arrow, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def compare_models(out: Path, page: Path) -> None:
    """Write the page that puts all finished models of a folder side by side."""
    sweep = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    models = read_out(out)
    links = {
        entry["name"]: f"{entry['folder']}/{MODEL_PAGE}"
        for entry in sweep["models"]
        if (out / entry["folder"] / MODEL_PAGE).exists()
    }
    try:
        write_comparison(models, page, sweep, links)
    except OSError as error:
        raise write_error(page, error) from error
