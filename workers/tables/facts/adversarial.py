"""How often direct logit attribution is fooled, of the places at which that was tested and may be counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.tables.values import Tables, numeric, rows_where, strings, table_of

COUNTED = {"shown": "found", "given": "given"}
"""The places that count, and the source that tables give them: those of the half of the prompts on which they were not looked
for, and the prompts that the user gave."""


class Fooled(NamedTuple):
    """At how many places DLA is fooled, and the median share of it that arrives; NaN without places."""

    n: int
    of: int
    share: float


def fooled(tables: Tables, places: str, writer: str | None = None) -> Fooled:
    """Of the verified writers' own DLA at their places.

    Args:
        places: one of ``COUNTED``.
        writer: one of them; all where ``None``.
    """
    rows = rows_where(table_of(tables, "adversarial"), role="writer", inputs="last", source=COUNTED[places])
    if writer is not None:
        rows = rows_where(rows, writer=writer)
    if places == "shown":
        rows = rows_where(rows, half=places)
    words = [word for word in strings(rows, "fools") if word is not None]
    shares = numeric(rows, "total_share")
    shares = shares[np.isfinite(shares)]
    return Fooled(words.count("True"), len(words), float(np.median(shares)) if len(shares) else np.nan)
