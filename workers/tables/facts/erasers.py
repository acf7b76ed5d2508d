"""Which heads erase broadly: out of nearly all that earlier heads write, and not out of whatever they read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.values import Tables, numeric, strings


def broad_erasers(tables: Tables) -> pd.DataFrame:
    """The rows of ``erasers`` that are broad, those first that take out most in sum."""
    rows = _erasers(tables)
    broad = rows[np.array([flag == "True" for flag in strings(rows, "broad")], dtype=bool)]
    return broad.iloc[np.argsort(numeric(broad, "beta_sum"), kind="stable")]


def widest_eraser(tables: Tables) -> pd.Series | None:
    """The row of the head that takes more than τ out of the most earlier heads; None where no head does of any."""
    rows = _erasers(tables)
    taken = numeric(rows, "heads_taken")
    return None if not len(rows) or not np.nanmax(taken) > 0 else rows.iloc[int(np.nanargmax(taken))]


def _erasers(tables: Tables) -> pd.DataFrame:
    return tables.get("erasers", pd.DataFrame({"eraser": pd.Series(dtype=str)}))
