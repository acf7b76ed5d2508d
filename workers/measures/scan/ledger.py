"""The ledger of a writer: what it wrote, what later components added to that and took from it, what remains.

Medians do not add; the pooled coefficients β do. With β(state) the coefficient of a residual-stream state and β(c) that of
a later term, exactly

    β(state after the writer's sublayer) + Σ max(β(c), 0) + Σ min(β(c), 0) = β(final state)
    written                              + reinforced     + opposed        = remaining

Beside it stands what later heads take because they read the writer: ``erased_by_reading``, minus the coefficient of the
V-composed part of all later heads together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.measure import Columns

LEDGER = ("written", "remaining", "reinforced", "opposed")


class Reading(NamedTuple):
    """What later heads do to a writer because they read it."""

    erased: float
    erased_centred: float
    erasers: str
    """Heads whose V-composed part is consistently negative, joined by ``+``."""
    opposing: str
    """Heads that are consistently negative but not because they read the writer."""
    share: float
    """The V-composed part's share of what the erasers oppose; NaN where all they write along the writer is not negative."""
    dla_r: float
    dla_slope: float


NO_READING = Reading(np.nan, np.nan, "", "", np.nan, np.nan, np.nan)


def ledger_columns(
    layout: Layout,
    writers: tuple[str, ...],
    beta: Float[np.ndarray, "writer row"],
    beta_centred: Float[np.ndarray, "writer row"],
    readings: list[Reading | None],
) -> Columns:
    """The ``writers`` table of one block of writers; rows of the arguments as in ``Layout.rows``.

    ``significant_erasers`` and ``rank`` are left NaN until all blocks are known.

    Args:
        beta, beta_centred: pooled coefficients of every row onto each writer, NaN for a writer that writes nothing.
        readings: by writer; ``None`` where nothing later can read it, or it writes nothing.
    """
    plain, centred = (_ledger(layout, writers, values) for values in (beta, beta_centred))
    silent = np.isnan(beta[:, 0])
    found = [reading or NO_READING for reading in readings]
    columns: Columns = {"writer": np.array(writers, dtype=object), **plain}
    columns["erased_by_reading"] = np.array([reading.erased for reading in found])
    columns |= {f"{name}_centred": values for name, values in centred.items()}
    columns["erased_by_reading_centred"] = np.array([reading.erased_centred for reading in found])
    for name in ("erasers", "opposing"):
        labels = [None if quiet else getattr(reading, name) for quiet, reading in zip(silent, found, strict=True)]
        columns[name] = np.array(labels, dtype=object)
    columns["significant_erasers"] = np.full(len(writers), np.nan)
    columns["v_composition_share"] = np.array([reading.share for reading in found])
    columns |= {name: np.array([getattr(reading, name) for reading in found]) for name in ("dla_r", "dla_slope")}
    return columns | {"rank": np.full(len(writers), np.nan)}


def _ledger(layout: Layout, writers: tuple[str, ...], beta: Float[np.ndarray, "writer row"]) -> Columns:
    values = []
    for index, writer in enumerate(writers):
        later = beta[index, layout.later_terms(writer)]
        states = (layout.states[layout.written_state(writer)], layout.states[-1])
        written, remaining = (beta[index, layout.row_index[state]] for state in states)
        # The sums of no terms must be NaN too where a writer has no output.
        values.append(
            (written, remaining, later.clip(min=0).sum() + 0 * written, later.clip(max=0).sum() + 0 * written)
        )
    return dict(zip(LEDGER, np.array(values, dtype=np.float64).T, strict=True))
