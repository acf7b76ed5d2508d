"""Tables of a finished sweep as the pages read them.

``read_out`` takes a sweep's folder: ``manifest.json`` says which models there are and in which subfolder each one's
tables lie. A model that failed has no tables; it is still returned, so that a page can say so. ``Grid`` turns one long
table into a matrix per statistic, writers by states or components, in the order of the residual stream and NaN where
nothing was measured, which is the form that every figure starts from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.manifest import Manifest, ManifestEntry, ManifestHead
from erasure_sweep.workers.tables.files import check_version, read_tables

STATISTICS = ("q12_5", "q25", "median", "q75", "q87_5", "mean", "beta", "beta_centred")
READING_STATISTICS = (
    *("clean_q25", "clean_median", "clean_q75", "patched_q25", "patched_median", "patched_q75"),
    *("beta", "beta_centred"),
)
DLA_STATISTICS = ("r", "slope", "low", "high")
LATER = "later"
"""The sum of all heads of later layers, as a table of erasers names it."""

_STATE = re.compile(r"resid_(?P<where>pre|mid|post)(?P<layer>\d+)")
_KIND_ORDER = {"embeddings": 0, "head": 1, "bias": 2, "attention": 3, "MLP": 4, "other": 5}

Floats = NDArray[np.float64]


class ModelTables(NamedTuple):
    """One model of a sweep: its entry in the manifest and its tables by name."""

    about: dict[str, Any]
    tables: dict[str, pd.DataFrame]


class Place(NamedTuple):
    """Where a component adds to the stream: sublayer 0 is attention, 1 the MLP; embeddings come before layer 0."""

    layer: int
    sublayer: int


def kind_of(label: str) -> str:
    """Kind of a component's label: embeddings, head, bias, attention (a layer's sum), MLP, or other."""
    if label in ("embed", "pos_embed"):
        return "embeddings"
    try:
        layer_of(label)
    except ValueError:
        return "other"
    prefixes = {"L": "head", "b_O": "bias", "attn": "attention", "MLP": "MLP"}
    return next(kind for prefix, kind in prefixes.items() if label.startswith(prefix))


def place_of(label: str) -> Place | None:
    """Where the component adds to the stream; None for a label that is no component's."""
    kind = kind_of(label)
    if kind == "other":
        return None
    return Place(-1, 0) if kind == "embeddings" else Place(layer_of(label), int(kind == "MLP"))


def state_place(state: str) -> Place | None:
    """The last sublayer that a state holds; None for a name that is no state's."""
    match = _STATE.fullmatch(state)
    if match is None:
        return None
    layer = int(match["layer"])
    return {"pre": Place(layer - 1, 1 if layer else 0), "mid": Place(layer, 0), "post": Place(layer, 1)}[match["where"]]


def component_order(labels: Iterable[str]) -> list[str]:
    """Labels once each, in the order in which components add to the stream; unknown ones last, as they came."""

    def key(item: tuple[int, str]) -> tuple[int, int, int, int]:
        position, label = item
        place, kind = place_of(label), kind_of(label)
        if place is None:
            return (10**9, 0, 0, position)
        within = int(label.partition("H")[2]) if kind == "head" else int(label == "pos_embed")
        return (*place, _KIND_ORDER[kind], within)

    return [label for _, label in sorted(enumerate(dict.fromkeys(labels)), key=key)]


def state_order(states: Iterable[str]) -> list[str]:
    """States once each, in the order of the forward pass; unknown ones last, as they came."""
    known = {state: state_place(state) for state in dict.fromkeys(states)}
    return sorted(known, key=lambda state: known[state] or Place(10**9, 0))


def numeric(table: pd.DataFrame, column: str) -> Floats:
    """A column as floats: NaN where it is null or absent, or holds what is no number."""
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def strings(table: pd.DataFrame, column: str) -> list[str | None]:
    """A column as strings: None where it is null or absent."""
    if column not in table:
        return [None] * len(table)
    return [None if pd.isna(value) else str(value) for value in table[column]]


def table_of(model: ModelTables, name: str) -> pd.DataFrame:
    """One of the model's tables; an empty one where the run did not make it, or made it without a ``writer``."""
    table = model.tables.get(name)
    return pd.DataFrame({"writer": pd.Series(dtype=str)}) if table is None or "writer" not in table else table


@dataclass(frozen=True)
class Grid:
    """A long table as one matrix [writer, column] per statistic; columns are states, components or erasers."""

    writers: list[str]
    columns: list[str]
    values: dict[str, Floats]

    @cached_property
    def row_index(self) -> dict[str, int]:
        return {writer: row for row, writer in enumerate(self.writers)}

    @cached_property
    def column_index(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.columns)}

    @cached_property
    def measured(self) -> list[str]:
        """Writers with at least one value: those that were not zero everywhere."""
        seen = np.zeros(len(self.writers), dtype=bool)
        for values in self.values.values():
            seen |= np.isfinite(values).any(axis=1)
        return [writer for writer, any_value in zip(self.writers, seen, strict=True) if any_value]

    def row(self, writer: str, statistic: str) -> Floats:
        """One writer's statistic at every column; all NaN where the writer is not in the table."""
        row = self.row_index.get(writer)
        return np.full(len(self.columns), np.nan) if row is None else self.values[statistic][row]


def grid_of(table: pd.DataFrame | None, column: str, statistics: Sequence[str] = STATISTICS) -> Grid:
    """Matrices of a table's ``statistics``; ``column`` is ``state``, ``component`` or ``eraser``.

    Without a table the grid is empty.
    """
    if table is None or not {"writer", column} <= set(table.columns):
        table = pd.DataFrame({"writer": pd.Series(dtype=str), column: pd.Series(dtype=str)})
    row_codes, row_labels = pd.factorize(table["writer"].astype(str))
    column_codes, column_labels = pd.factorize(table[column].astype(str))
    writers = component_order(row_labels)
    columns = state_order(column_labels) if column == "state" else component_order(column_labels)
    rows = _positions(row_labels, writers)[row_codes]
    cols = _positions(column_labels, columns)[column_codes]
    values = {}
    for statistic in statistics:
        values[statistic] = np.full((len(writers), len(columns)), np.nan)
        values[statistic][rows, cols] = numeric(table, statistic)
    return Grid(writers, columns, values)


def _positions(labels: Iterable[str], ordered: Sequence[str]) -> NDArray[np.intp]:
    place = {label: index for index, label in enumerate(ordered)}
    return np.array([place[label] for label in labels], dtype=np.intp)


def reading_of(model: ModelTables) -> Grid:
    """What heads of later layers do to each writer with and without reading it: clean, patched and β."""
    return grid_of(model.tables.get("v_composition"), "eraser", READING_STATISTICS)


def dla_of(model: ModelTables, effect: str) -> Grid:
    """How each writer's DLA goes with an eraser's in the scan; ``effect`` is ``full`` or ``v_composition``."""
    table = table_of(model, "dla_correlation")
    if "effect" in table:
        # verify has rows of the same names; rows that do not say their stage are the scan's
        scan = [stage in (None, "scan") for stage in strings(table, "stage")]
        table = table[(table["effect"] == effect) & np.array(scan, dtype=bool)]
    return grid_of(table, "eraser", DLA_STATISTICS)


def writers_table(model: ModelTables) -> pd.DataFrame:
    """The model's ``writers`` table by rank, writers without one most opposed first; an empty one if it has none."""
    table = model.tables.get("writers")
    if table is None or "writer" not in table:
        return pd.DataFrame({"writer": pd.Series(dtype=str), "opposed": pd.Series(dtype=float)})
    # NaN sorts last, so a run that measured no ranks is in the order of what it did measure
    order = np.lexsort((numeric(table, "opposed"), numeric(table, "rank")))
    return table.iloc[order].reset_index(drop=True)


def is_ranked(writers: pd.DataFrame) -> bool:
    """Whether this table says what later heads erase because they read it, and ranks writers by that."""
    return bool(np.isfinite(numeric(writers, "rank")).any())


def top_writers(model: ModelTables, n: int | None = None) -> list[str]:
    """The ``n`` writers (all by default) most erased by reading, or most opposed where reading was not measured."""
    table = writers_table(model)
    measured = np.isfinite(numeric(table, "opposed")) | np.isfinite(numeric(table, "rank"))
    return table["writer"].astype(str)[measured].tolist()[:n]


def read_out(out: Path) -> list[ModelTables]:
    """Every model that the manifest in a sweep's folder names, with the tables found for it.

    Raises:
        SchemaError: the manifest or a table is of another schema version.
        DataError: there is no readable manifest, or a table is damaged.
    """
    return [read_model(out, entry) for entry in read_manifest(out / "manifest.json").models]


def read_model(out: Path, entry: ManifestEntry) -> ModelTables:
    """The tables of one model of a sweep's folder.

    Raises:
        SchemaError: a table is of another schema version.
        DataError: a table is damaged, or the entry names no folder of the sweep's own.
    """
    about = entry.to_json()
    return ModelTables(about, read_tables(out / folder_of(about) / "tables"))


def folder_of(about: dict[str, Any]) -> str:
    """The name of a model's folder in its sweep's.

    Raises:
        DataError: it would lead elsewhere.
    """
    folder = str(about.get("folder") or about.get("name"))
    if folder in ("", ".", "..") or Path(folder).name != folder or "\\" in folder:
        raise DataError(
            f"the manifest's folder {folder!r} is none of the sweep's own: run the sweep again to write it anew"
        )
    return folder


def read_manifest(path: Path) -> Manifest:
    """A sweep's manifest.

    Raises:
        SchemaError: it is of another schema version.
        DataError: it is missing or damaged.
    """
    try:
        content = path.read_bytes()
        # first the version: a manifest of another one may say what it holds in another way
        check_version(path, ManifestHead.model_validate_json(content).schema_version)
        return Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {path.parent} is not the folder of a finished sweep") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: run the sweep again, finished shards are kept") from error
