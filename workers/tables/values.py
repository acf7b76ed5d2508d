"""Columns of a model's tables as arrays: NaN or None where a value, a column or the whole table is not there.

Tables come from other versions too, and a run need not make all of them; whoever draws something from them asks here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Tables = Mapping[str, pd.DataFrame]
"""A model's tables by name."""

Floats = NDArray[np.float64]


def table_of(tables: Tables, name: str) -> pd.DataFrame:
    """One of a model's tables; an empty one where the run did not make it, or made it without a ``writer``."""
    table = tables.get(name)
    return pd.DataFrame({"writer": pd.Series(dtype=str)}) if table is None or "writer" not in table else table


def numeric(table: pd.DataFrame, column: str) -> Floats:
    """A column as floats: NaN where it is null or absent, or holds what is no number."""
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def strings(table: pd.DataFrame, column: str) -> list[str | None]:
    """A column as strings: None where it is null or absent."""
    if column not in table:
        return [None] * len(table)
    codes, values = pd.factorize(table[column])  # there are many rows and few values
    names = [str(value) for value in values]
    return [None if code < 0 else names[code] for code in codes.tolist()]


def rows_where(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows with these values in these columns; none where a column is absent."""
    if not set(values) <= set(table.columns):
        return table.iloc[:0]
    found = np.ones(len(table), dtype=bool)
    for column, value in values.items():
        found &= (table[column].astype(str) == value).to_numpy()
    return table[found]
