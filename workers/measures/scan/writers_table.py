"""The table ``writers``: of every writer what it wrote, what was added to that and taken from it, what remains, and who erases.

Medians do not add; the pooled coefficients β do. With β(state) the coefficient of a residual-stream state and β(c) that of
a later term, exactly

    β(state after the writer's sublayer) + Σ max(β(c), 0) + Σ min(β(c), 0) = β(final state)
    written                              + reinforced     + opposed        = remaining

Beside this ledger stands what later heads erase of the writer over all attention paths: ``erased``, the row ``later`` of the
table ``erasure_shares``, and what is left of its attribution (``net_dla``). An eraser is a later head whose V-composed part
is consistently negative: median ≤ −τ and upper quartile < 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.measure import DerivedTable, Setting
from erasure_sweep.workers.measures.scan.dla import EFFECTS
from erasure_sweep.workers.measures.scan.eraser_rule import takes_away
from erasure_sweep.workers.tables.columns import Columns

LEDGER = ("written", "remaining", "reinforced", "opposed")


class WriterTables(NamedTuple):
    """The rows of one writer in the tables of the scan's measures."""

    writer: str
    states: Columns
    components: Columns
    pairs: Columns
    lines: Columns
    shares: Columns
    net: Columns


class Reading(NamedTuple):
    """What later heads do to a writer because they read it."""

    erasers: str
    """Heads whose V-composed part is consistently negative, joined by ``+``."""
    opposing: str
    """Heads that are consistently negative but not because they read the writer."""
    share: float
    """The V-composed part's share of what the erasers oppose; NaN where all they write along the writer is not negative."""
    dla_r: float
    dla_slope: float


NO_READING = Reading("", "", np.nan, np.nan, np.nan)

ERASED = {f"erased{suffix}{end}": f"share{suffix}{end}" for suffix in ("", "_centred") for end in ("", "_low", "_high")}
"""Columns that are those of the row ``later`` of ``erasure_shares``."""
GROWTH = ("diluted", "constant_share")
"""Columns that are those of the final state in ``residual_projection``."""
NET = {"net_r": "r", "net_slope": "slope"}
"""Columns that are those of ``net_dla``."""


class WritersTable(DerivedTable):
    """One row for each writer."""

    stage, name = "paths", "writers"

    def columns(self, layout: Layout, tables: Mapping[str, Columns], setting: Setting) -> Columns:
        """The table, from projections, pairs, lines and all attention paths."""
        writers = _by_writer(layout, tables)
        plain, centred = (_ledgers(layout, writers, column) for column in ("beta", "beta_centred"))
        readings = [_reading(writer, setting.tau) for writer in writers]
        columns: Columns = {"writer": np.array(layout.writers, dtype=object), **plain}
        columns |= {f"{name}_centred": values for name, values in centred.items()}
        columns |= {name: _last(writers, "states", name) for name in GROWTH}
        columns |= {name: _last(writers, "shares", of) for name, of in ERASED.items()}
        columns |= {name: _last(writers, "net", of) for name, of in NET.items()}
        low = columns["erased_low"].tolist()
        clear = [None if np.isnan(end) else end > setting.tau for end in low]
        columns["clearly_erased"] = np.array(clear, dtype=object)
        for name in ("erasers", "opposing"):
            labels = [
                None if np.isnan(writer.states["beta"][0]) else getattr(reading, name)
                for writer, reading in zip(writers, readings, strict=True)
            ]
            columns[name] = np.array(labels, dtype=object)
        columns["significant_erasers"] = np.array([_count_significant(writer.pairs) for writer in writers])
        columns["v_composition_share"] = np.array([reading.share for reading in readings])
        columns |= {name: np.array([getattr(reading, name) for reading in readings]) for name in ("dla_r", "dla_slope")}
        return columns | {"rank": _ranks(columns["erased"])}


def _last(writers: list[WriterTables], table: str, column: str) -> Float[np.ndarray, "writer"]:
    """A column of the last of each writer's rows in a table, which stands for all later heads; NaN where it has none."""
    values = [getattr(writer, table)[column] for writer in writers]
    return np.array([of_writer[-1] if len(of_writer) else np.nan for of_writer in values])


def _by_writer(layout: Layout, tables: Mapping[str, Columns]) -> list[WriterTables]:
    """Every writer's rows, which stand together in each table."""
    names = (
        "residual_projection",
        "component_projection",
        "v_composition",
        "dla_correlation",
        "erasure_shares",
        "net_dla",
    )
    spans = []
    for labels in (tables[name]["writer"] for name in names):
        starts = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
        spans.append({labels[start]: slice(start, stop) for start, stop in pairwise(starts) if stop > start})
    return [
        WriterTables(
            writer,
            *(
                {column: values[own.get(writer, slice(0, 0))] for column, values in tables[name].items()}
                for name, own in zip(names, spans, strict=True)
            ),
        )
        for writer in layout.writers
    ]


def _ledgers(layout: Layout, writers: list[WriterTables], column: str) -> Columns:
    """The ledger in plain or centred coefficients."""
    values = []
    for writer in writers:
        states = writer.states[column]
        components = dict(zip(writer.components["component"], writer.components[column], strict=True))
        later = np.array([components[layout.terms[term]] for term in layout.later_terms(writer.writer)])
        written, remaining = states[layout.written_state(writer.writer)], states[-1]
        # The sums of no terms must be NaN too where a writer has no output.
        values.append(
            (written, remaining, later.clip(min=0).sum() + 0 * written, later.clip(max=0).sum() + 0 * written)
        )
    return dict(zip(LEDGER, np.array(values, dtype=np.float64).T, strict=True))


def _reading(writer: WriterTables, tau: float) -> Reading:
    """What a writer's later heads do; ``NO_READING`` where there is none, or the writer writes nothing."""
    pairs, labels = writer.pairs, writer.pairs["eraser"]
    if len(labels) == 0 or writer.states["n"][0] == 0:
        return NO_READING
    later = labels.tolist().index("later")
    # Behind `later` stand the groups that the user named: one of a single head is called as that head is.
    heads = np.array([row < later and label.startswith("L") for row, label in enumerate(labels)])
    erases = heads & takes_away(pairs["v_composed_median"], pairs["v_composed_q75"], tau)
    row_of = {label: row for row, label in enumerate(writer.components["component"])}
    full = [row_of[label] for label in labels[heads]]
    opposes = np.zeros(len(labels), dtype=bool)
    opposes[heads] = takes_away(writer.components["median"][full], writer.components["q75"][full], tau)
    opposed = -writer.components["beta"][[row_of[label] for label in labels[erases]]].sum()
    line = len(EFFECTS) * later + EFFECTS.index("v_composition")
    return Reading(
        erasers="+".join(labels[erases]),
        opposing="+".join(labels[opposes & ~erases]),
        share=-pairs["beta"][erases].sum() / opposed if opposed > 0 else np.nan,
        dla_r=writer.lines["r"][line],
        dla_slope=writer.lines["slope"][line],
    )


def _count_significant(pairs: Columns) -> float:
    """How many of a writer's later heads are significant; NaN where none was tested."""
    tested = [significant for significant in pairs["significant"] if significant is not None]
    return float(sum(tested)) if tested else np.nan


def _ranks(erased: np.ndarray) -> np.ndarray:
    """1 for the writer that is erased most; NaN stays NaN."""
    order = np.argsort(-erased, kind="stable")
    ranks = np.full(len(erased), np.nan)
    measured = order[: np.isfinite(erased).sum()]
    ranks[measured] = np.arange(1, len(measured) + 1)
    return ranks
