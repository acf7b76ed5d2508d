"""What is left of a writer (Fig 1): how much of its output each state of the residual stream holds, and a reader sees.

Lines are medians over every measured token, with bands from the lower to the upper quartile, as in the published figure.
Dotted lines are the medians of effective presence: what a reader behind a norm sees, for which the stream's growth counts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.view import GLANCE, MODEL, ModelView
from erasure_sweep.dashboards.model.writers_table import most_erased
from erasure_sweep.dashboards.plots.bands import STATE_TITLE, band
from erasure_sweep.dashboards.plots.theme import (
    CYCLE,
    DASHES,
    GREY,
    RATIO_TITLE,
    SYMBOLS,
    figure,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import place_of, state_place
from erasure_sweep.workers.tables.values import Floats

TOP_WRITERS = 5


class StatePresence(NamedTuple):
    """How much of one writer each state holds; ``written_at`` is the index of the first state with its output."""

    writer: str
    states: list[str]
    written_at: int | None
    q12_5: Floats
    q25: Floats
    median: Floats
    q75: Floats
    q87_5: Floats
    effective: Floats
    """Median effective presence."""


def presence(residual: Grid, writer: str) -> StatePresence:
    """One line of Fig 1."""
    place = place_of(writer)
    reached = [i for i, state in enumerate(residual.columns) if place and (state_place(state) or (-9, 0)) >= place]
    columns = ("q12_5", "q25", "median", "q75", "q87_5", "effective_median")
    quantiles = [residual.row(writer, name) for name in columns]
    return StatePresence(writer, residual.columns, reached[0] if reached else None, *quantiles)


def plot_presence(shown: Sequence[StatePresence]) -> go.Figure:
    """Fig 1: median and quartiles per writer; for one writer alone also 12.5–87.5 % and where it writes."""
    alone = len(shown) == 1
    data: list[Any] = []
    for index, one in enumerate(shown):
        colour = CYCLE[index % len(CYCLE)]
        if alone:
            data += band(one.states, one.q12_5, one.q87_5, shade(colour, 0.12), one.writer)
        data += band(one.states, one.q25, one.q75, shade(colour, 0.24 if alone else 0.13), one.writer)
        data.append(_effective_line(one, colour))
        data.append(presence_line(one, colour, DASHES[0], SYMBOLS[index % len(SYMBOLS)]))
    medians = np.concatenate([np.append(one.median, one.effective) for one in shown]) if shown else np.array([])
    bands = [[one.q12_5, one.q87_5] if alone else [one.q25, one.q75] for one in shown]
    edges = np.concatenate([np.append(*band) for band in bands]) if shown else np.array([])
    limit = np.inf if alone else 4.0
    return figure(
        data,
        x_title=STATE_TITLE,
        y_title=RATIO_TITLE.replace(" (", "<br>("),
        height=460,
        sentence=_presence_sentence(shown[0]) if alone else "",
        xaxis={"type": "category"},
        yaxis={"range": robust_range(medians, edges, limit=limit)},
        shapes=_written_line(shown[0]) if alone else [],
        annotations=_written_note(shown[0]) if alone else [],
        showlegend=not alone,
    )


def presence_line(one: StatePresence, colour: str, dash: str, symbol: str) -> go.Scatter:
    # where it writes, the marker is larger: from there on the line is about its output, before it about its absence
    sizes = [12 if index == one.written_at else 6 for index in range(len(one.states))]
    return go.Scatter(
        x=one.states,
        y=single(one.median),
        customdata=single(np.stack([one.q25, one.q75], axis=1)),
        name=text(one.writer),
        legendgroup=text(one.writer),
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": sizes, "color": colour, "opacity": 1, "line": {"width": 0}},
        hovertemplate="%{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
    )


def _effective_line(one: StatePresence, colour: str) -> go.Scatter:
    seen = np.where(np.arange(len(one.states)) >= (one.written_at or 0), one.effective, np.nan)
    return go.Scatter(
        x=one.states,
        y=single(seen),
        name=text(f"{one.writer}, as readers see it"),
        legendgroup=text(one.writer),
        showlegend=False,
        mode="lines",
        line={"color": colour, "dash": "dot", "width": 2},
        hovertemplate="%{x}: %{y:.3f} as a reader sees it",
    )


def _written_line(one: StatePresence) -> list[dict[str, Any]]:
    if not one.written_at:
        return []
    x = one.written_at - 0.5
    return [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "color": GREY}}
    ]


def _written_note(one: StatePresence) -> list[dict[str, Any]]:
    if not one.written_at:
        return []
    note = {"text": f"{text(one.writer)} writes here", "showarrow": False, "yref": "paper", "y": 1, "yanchor": "bottom"}
    near_end = one.written_at > 0.7 * len(one.states)
    return [{**note, "x": one.written_at - 0.5, "xanchor": "right" if near_end else "left"}]


def _presence_sentence(one: StatePresence) -> str:
    if one.written_at is None or not np.isfinite(one.median[[one.written_at, -1]]).all():
        return f"{one.writer} was not measured: its output is zero, or the table lacks it."
    start, end = one.median[one.written_at], one.median[-1]
    written, last = one.states[one.written_at], one.states[-1]
    seen = f", {number(one.effective[-1])} as a reader sees it" if np.isfinite(one.effective[-1]) else ""
    return f"{one.writer}: median {number(start)} at {written}, {number(end)} at {last}{seen}."


@card(MODEL, "presence", GLANCE, order=40, alone=True)
def presence_card(view: ModelView) -> Card:
    measured = set(view.residual.measured)
    shown = [presence(view.residual, writer) for writer in view.offered if writer in measured]
    first = min(TOP_WRITERS, len(shown))
    figures = {"0": plot_presence(shown[:first])} if shown else {}
    figures |= {str(index): plot_presence([one]) for index, one in enumerate(shown, start=1)}
    names = [f"the {first} {most_erased(view.writers)}", *(one.writer for one in shown)] if shown else []
    return Card(
        "What is left of a writer",
        "How much of a writer's output, means kept, each state of the residual stream holds. 1 is all of it, 0 none; below 0 "
        "later components wrote more against it than it wrote. Lines are medians over all measured tokens, the "
        "large marker is the first state with the writer's output. Bands span the quartiles (25 to 75 %), for one "
        "writer alone also 12.5 to 87.5 %. Dotted is what a reader behind a norm sees, the same times the stream's scale "
        "where the writer wrote over its scale here: the stream grows, and a writer fades without being erased. The axis "
        "leaves out distant tails.",
        figures,
        [Control("Writer", names)] if names else [],
        empty="The table residual_projection is missing or holds no measured writer.",
        tables=("residual_projection",),
    )
