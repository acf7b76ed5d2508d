"""Which heads erase: whom beyond chance, whom most, and which of them broadly, out of nearly all that earlier heads write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.values import Tables, numeric, rows_where, strings, table_of


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


class Erasure(NamedTuple):
    """A later head and a writer that it takes something out of."""

    writer: str
    eraser: str
    share: float


def significant_erasures(tables: Tables) -> list[Erasure]:
    """Pairs that are significant, those first in which most is taken out."""
    pairs = table_of(tables, "v_composition")
    found = pairs[pairs["significant"].eq(True)] if "significant" in pairs else pairs.iloc[:0]
    rows = zip(found["writer"].astype(str), strings(found, "eraser"), (-numeric(found, "beta")).tolist(), strict=True)
    return sorted((Erasure(writer, str(eraser), share) for writer, eraser, share in rows), key=lambda pair: -pair.share)


def most_taken_from(tables: Tables, eraser: str) -> list[str]:
    """Writers that a head takes something out of, those first that it takes most out of."""
    pairs = rows_where(table_of(tables, "v_composition"), eraser=eraser)
    betas = numeric(pairs, "beta")
    writers = pairs["writer"].astype(str).to_numpy()
    return [writers[row] for row in np.argsort(betas, kind="stable") if betas[row] < 0]
