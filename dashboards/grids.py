"""Long tables as matrices, the form that every figure starts from.

A ``Grid`` has a matrix per statistic, writers by states, components or erasers, in the order of the residual stream and NaN
where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erasure_sweep.workers.labels import component_order, state_order
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, table_of

STATISTICS = ("q12_5", "q25", "median", "q75", "q87_5", "mean", "beta", "beta_centred")
RESIDUAL_STATISTICS = (*STATISTICS, "effective_median")
READING_STATISTICS = (
    *("clean_q25", "clean_median", "clean_q75", "patched_q25", "patched_median", "patched_q75"),
    *("beta", "beta_centred"),
)
DLA_STATISTICS = ("r", "slope", "low", "high")


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

    def by_column(self, writer: str, statistic: str) -> dict[str, float]:
        """The same by the columns' names."""
        return dict(zip(self.columns, self.row(writer, statistic).tolist(), strict=True))


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


def residual_of(tables: Mapping[str, pd.DataFrame]) -> Grid:
    """How much of each writer every state of the stream holds."""
    return grid_of(tables.get("residual_projection"), "state", RESIDUAL_STATISTICS)


def reading_of(model: ModelTables) -> Grid:
    """What heads of later layers do to each writer with and without reading it: clean, patched and β."""
    return grid_of(model.tables.get("v_composition"), "eraser", READING_STATISTICS)


def dla_of(model: ModelTables, effect: str) -> Grid:
    """How each writer's DLA goes with an eraser's in the scan; ``effect`` is ``full`` or ``v_composition``."""
    table = table_of(model.tables, "dla_correlation")
    if "effect" in table:
        chosen = table["effect"] == effect
        if "stage" in table:
            # verify has rows of the same names; rows that do not say their stage are the scan's
            chosen &= table["stage"].isna() | (table["stage"] == "scan")
        table = table[chosen]
    return grid_of(table, "eraser", DLA_STATISTICS)
