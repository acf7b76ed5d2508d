"""How often direct logit attribution is fooled, of the places at which that was tested and may be counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.values import Tables, numeric, rows_where, strings, table_of

COUNTED = ("shown", "given")
"""The places that count: those of the half of the prompts on which they were not looked for, and those that the user gave."""


class Fooled(NamedTuple):
    """At how many places DLA is fooled, and the median share of it that arrives; NaN without places."""

    n: int
    of: int
    share: float


def sources_of(table: pd.DataFrame) -> list[str | None]:
    """Where each row's prompt is from: ``given``, or of one in the corpus on which half it is, ``shown`` or ``found``."""
    return [half or source for half, source in zip(strings(table, "half"), strings(table, "source"), strict=True)]


def from_source(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows whose prompts are from there."""
    return table[np.array([own == source for own in sources_of(table)], dtype=bool)]


def fooled(tables: Tables, places: str, writer: str | None = None) -> Fooled:
    """Of the verified writers' own DLA at their places.

    Args:
        places: one of ``COUNTED``.
        writer: one of them; all where ``None``.
    """
    rows = from_source(rows_where(table_of(tables, "adversarial"), role="writer", inputs="last"), places)
    if writer is not None:
        rows = rows_where(rows, writer=writer)
    words = [word for word in strings(rows, "fools") if word is not None]
    shares = numeric(rows, "total_share")
    shares = shares[np.isfinite(shares)]
    return Fooled(words.count("True"), len(words), float(np.median(shares)) if len(shares) else np.nan)
