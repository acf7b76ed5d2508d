"""The ledger of a writer: what it wrote, what each later sublayer added or took away, and what remains.

Pooled coefficients β add up exactly, medians do not; so the ledger is drawn from β. Later attention layers count their
heads and bias one by one, positive and negative sums apart; an MLP is one term. ``centred`` removes every component's
mean over tokens first: what is then still taken away is information, not a constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card, Control
from erasure_sweep.dashboards.model.view import GLANCE, MODEL, ModelView
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, VERMILLION, figure, single, text
from erasure_sweep.dashboards.wording import number, taken_out_and_written_back
from erasure_sweep.workers.labels import StreamPlace, kind_of, place_of
from erasure_sweep.workers.tables.values import Floats, numeric

_TERM_KINDS = ("head", "bias", "MLP")
_LARGEST_TERMS = 5
GAP_TOLERANCE = 1e-3


class LedgerStep(NamedTuple):
    """One bar between written and remaining: a sublayer's reinforcing or opposing terms, strongest named first."""

    label: str
    value: float
    terms: list[str]


class Ledger(NamedTuple):
    """written + steps = remaining, up to ``gap``; all NaN for a writer that was not measured."""

    writer: str
    centred: bool
    written: float
    steps: list[LedgerStep]
    remaining: float
    gap: float
    erased: float
    """What later heads take out of it over all attention paths."""


def ledger(components: Grid, writers: pd.DataFrame, writer: str, centred: bool = False) -> Ledger:
    """The ledger of one writer from its component projection and its row in ``writers``."""
    suffix = "_centred" if centred else ""
    rows = writers[writers["writer"].astype(str) == writer] if "writer" in writers else writers.iloc[:0]
    written, remaining, erased = (
        _first(numeric(rows, f"{name}{suffix}")) for name in ("written", "remaining", "erased")
    )
    steps = _steps(components, writer, components.row(writer, f"beta{suffix}"))
    gap = remaining - written - sum(step.value for step in steps)
    return Ledger(writer, centred, written, steps, remaining, gap, erased)


def _first(values: Floats) -> float:
    return float(values[0]) if len(values) else float("nan")


def _steps(components: Grid, writer: str, betas: Floats) -> list[LedgerStep]:
    own = place_of(writer)
    by_place: dict[StreamPlace, list[tuple[str, float]]] = {}
    for label, beta in zip(components.columns, betas, strict=True):
        place = place_of(label)
        if own and place and place > own and kind_of(label) in _TERM_KINDS and np.isfinite(beta):
            by_place.setdefault(place, []).append((label, float(beta)))
    steps = []
    for place, terms in by_place.items():
        name = f"{'MLP' if place.sublayer else 'attn'}{place.layer}"
        for sign in (1, -1):
            part = sorted((term for term in terms if sign * term[1] > 0), key=lambda term: -abs(term[1]))
            if part:
                label = name if place.sublayer else f"{name} {'+' if sign > 0 else '−'}"
                steps.append(LedgerStep(label, sum(beta for _, beta in part), [f"{t} {beta:+.3f}" for t, beta in part]))
    return steps


def plot_ledger(shown: Ledger) -> go.Figure:
    """A waterfall from written to remaining."""
    ends = np.array([shown.written, shown.remaining])
    measured = bool(np.isfinite(ends).all())
    values = [shown.written, *(step.value for step in shown.steps), shown.remaining] if measured else []
    labels = ["written", *(step.label for step in shown.steps), "remaining"] if measured else []
    hover = ["written by itself", *(_hover(step) for step in shown.steps), "what remains"] if measured else []
    dense = len(labels) > 40
    bars = go.Waterfall(
        x=labels,
        y=single(np.array(values)),
        measure=["absolute", *["relative"] * len(shown.steps), "absolute"] if measured else [],
        text=[] if dense else [number(value) for value in values],
        textposition="outside",
        cliponaxis=False,
        customdata=hover,
        hovertemplate="<b>%{x}</b><br>%{customdata}<extra></extra>",
        increasing={"marker": {"color": BLUE}},
        decreasing={"marker": {"color": VERMILLION}},
        totals={"marker": {"color": GREY}},
    )
    return figure(
        [bars],
        x_title="later sublayers, in order",
        y_title="pooled coefficient β<br>(share of the writer's output)",
        height=440,
        sentence=_sentence(shown, measured),
        showlegend=False,
        xaxis={"type": "category", **({"tickangle": -90} if len(labels) > 12 else {})},
        yaxis={"range": _range(shown) if measured else [0, 1]},
    )


def _range(shown: Ledger) -> list[float]:
    levels = np.cumsum([shown.written, *(step.value for step in shown.steps)])
    low, high = min(0.0, shown.remaining, levels.min()), max(0.0, shown.remaining, levels.max())
    # room for the numbers outside the bars
    return [low - 0.12 * (high - low), high + 0.12 * (high - low)]


def _hover(step: LedgerStep) -> str:
    more = len(step.terms) - _LARGEST_TERMS
    shown = "<br>".join(text(term) for term in step.terms[:_LARGEST_TERMS])
    return f"{step.value:+.3f} in all<br>{shown}" + (f"<br>and {more} more" if more > 0 else "")


def _sentence(shown: Ledger, measured: bool) -> str:
    if not measured:
        return f"{shown.writer} was not measured: its output is zero, or the table lacks it."
    up, down = (sum(max(sign * step.value, 0.0) for step in shown.steps) for sign in (1, -1))
    sentences = [
        f"{shown.writer}: {number(shown.written)} in the stream where it writes, {number(up)} reinforced and "
        f"{number(down)} opposed by later components, {number(shown.remaining)} at the end (pooled β)."
    ]
    if explained := taken_out_and_written_back(shown.written, shown.remaining, shown.erased):
        sentences.append(explained)
    if abs(shown.gap) > GAP_TOLERANCE:
        sentences.append(
            f"The table lacks terms: {number(shown.gap)} between written and remaining is not in these bars."
        )
    return " ".join(sentences)


@card(MODEL, "ledger", GLANCE, order=50)
def ledger_card(view: ModelView) -> Card:
    writers = view.writers
    ledgered = set(writers["writer"].astype(str)[np.isfinite(numeric(writers, "written"))])
    names = [writer for writer in view.offered if writer in ledgered & set(view.components.measured)]
    figures = {
        f"{index}.{int(centred)}": plot_ledger(ledger(view.components, view.writers, writer, centred))
        for index, writer in enumerate(names)
        for centred in (False, True)
    }
    return Card(
        "The ledger of a writer",
        "Pooled over all tokens the shares add up exactly: what the writer wrote (with what its own sublayer and "
        "earlier ones hold along it), plus what later sublayers reinforced (+, blue), minus what they opposed (−, "
        "red), is what remains. Attention is counted head by head and bias, so a layer can have both. 'Means "
        "removed' takes each component's average over tokens out first: what is then still opposed is information, "
        "not a constant. Where written → remaining and what is erased of it differ, both numbers are given.",
        figures,
        [Control("Writer", names), OUTPUTS] if names else [],
        min_width=min(800, 24 * max((len(plot.data[0].x) for plot in figures.values()), default=0)),
        empty="The ledger needs the tables component_projection and writers with a measured writer.",
        tables=("component_projection", "writers"),
    )
