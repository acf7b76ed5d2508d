"""The ledger of a writer: what it wrote, what later components added to that and took from it, what remains.

Medians do not add; the pooled coefficients β do. With β(state) the coefficient of a residual-stream state and β(c)
that of a later term, exactly

    β(state after the writer's sublayer) + Σ max(β(c), 0) + Σ min(β(c), 0) = β(final state)
    written                              + reinforced     + opposed        = remaining
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from workers.components import Layout
from workers.measures.base import Columns

LEDGER = ("written", "remaining", "reinforced", "opposed")

MEASURED_BY_READING = ("erased_by_reading", "v_composition_share", "dla_r", "dla_slope", "rank")
"""Numbers that need V-composition or DLA, null until those are measured."""


def ledger_columns(
    layout: Layout,
    writers: tuple[str, ...],
    beta: Float[np.ndarray, "writer row"],
    beta_centred: Float[np.ndarray, "writer row"],
    opposes: Bool[np.ndarray, "writer row"],
) -> Columns:
    """The ``writers`` table of one block of writers; rows of the arguments as in ``Layout.rows``.

    Args:
        beta, beta_centred: pooled coefficients of every row onto each writer, NaN for a writer that writes nothing.
        opposes: whether a row is consistently negative onto the writer.
    """
    plain, centred = (_ledger(layout, writers, values) for values in (beta, beta_centred))
    unmeasured = np.full(len(writers), np.nan)
    columns: Columns = {"writer": np.array(writers, dtype=object), **plain, "erased_by_reading": unmeasured}
    columns |= {f"{name}_centred": values for name, values in centred.items()}
    columns |= {
        "erased_by_reading_centred": unmeasured,
        "erasers": np.full(len(writers), None, dtype=object),
        "opposing": np.array(_opposing_heads(layout, writers, opposes, beta), dtype=object),
    }
    return columns | dict.fromkeys(MEASURED_BY_READING[1:], unmeasured)


def _ledger(layout: Layout, writers: tuple[str, ...], beta: Float[np.ndarray, "writer row"]) -> Columns:
    values = []
    for index, writer in enumerate(writers):
        later = beta[index, layout.later_terms(writer)]
        written, remaining = (
            beta[index, layout.row_index[state]]
            for state in (layout.states[layout.written_state(writer)], layout.states[-1])
        )
        # NaN sums must stay NaN: a writer without output has no ledger.
        values.append(
            (written, remaining, later.clip(min=0).sum() + 0 * written, later.clip(max=0).sum() + 0 * written)
        )
    return dict(zip(LEDGER, np.array(values, dtype=np.float64).T, strict=True))


def _opposing_heads(
    layout: Layout,
    writers: tuple[str, ...],
    opposes: Bool[np.ndarray, "writer row"],
    beta: Float[np.ndarray, "writer row"],
) -> list[str | None]:
    """Labels of the later heads that oppose each writer, joined by ``+``; ``None`` for a writer without output."""
    lists: list[str | None] = []
    for index, writer in enumerate(writers):
        labels = [
            layout.terms[term]
            for term in layout.later_terms(writer)
            if layout.terms[term] in layout.heads and opposes[index, term]
        ]
        lists.append("+".join(labels) if np.isfinite(beta[index, 0]) else None)
    return lists
