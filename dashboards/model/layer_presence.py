"""All writers of a layer: the median share of each in every state, as in the appendix of the published work."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.presence import StatePresence, presence, presence_line
from erasure_sweep.dashboards.model.view import MODEL, WRITER_BY_WRITER, ModelView
from erasure_sweep.dashboards.plots.bands import STATE_TITLE
from erasure_sweep.dashboards.plots.theme import CYCLE, DASHES, RATIO_TITLE, SYMBOLS, figure, robust_range
from erasure_sweep.workers.labels import place_of

MOST_POINTS = 100_000
"""Of all layers together: writers by states is the one thing on a page that grows with the square of a model's layers."""


def layer_steps(residual: Grid) -> list[tuple[str, list[str]]]:
    """Steps of the layer slider: the embeddings, then each layer's writers."""
    steps: dict[str, list[str]] = {}
    for writer in residual.writers:
        place = place_of(writer)
        name = "other" if place is None else "embeddings" if place.layer < 0 else f"layer {place.layer}"
        steps.setdefault(name, []).append(writer)
    return list(steps.items())


def thinned(shown: Sequence[StatePresence], step: int) -> list[StatePresence]:
    """Every ``step``-th state, the last, and those in which one of the writers is first."""
    kept = {*range(0, len(shown[0].states), step), len(shown[0].states) - 1} if shown else set()
    keep = sorted(kept | {one.written_at for one in shown if one.written_at is not None})
    return [
        StatePresence(
            one.writer,
            [one.states[index] for index in keep],
            None if one.written_at is None else keep.index(one.written_at),
            *(values[keep] for values in one[3:]),
        )
        for one in shown
    ]


def plot_layer(shown: Sequence[StatePresence]) -> go.Figure:
    """Median presence of every writer of one layer, as in the appendix of the published work."""
    data = []
    for index, one in enumerate(shown):
        turn = index // len(CYCLE)
        data.append(
            presence_line(one, CYCLE[index % len(CYCLE)], DASHES[turn % len(DASHES)], SYMBOLS[turn % len(SYMBOLS)])
        )
    medians = np.concatenate([one.median for one in shown]) if shown else np.array([])
    nothing = [one.writer for one in shown if not np.isfinite(one.median).any()]
    missing = f"Not measured, or zero everywhere: {', '.join(nothing)}." if nothing else ""
    return figure(
        data,
        x_title=STATE_TITLE,
        y_title=RATIO_TITLE.replace(" (", "<br>("),
        height=520,
        sentence=missing,
        xaxis={"type": "category"},
        yaxis={"range": robust_range(medians, medians, limit=4.0)},
        showlegend=True,
    )


@card(MODEL, "layers", WRITER_BY_WRITER, order=20)
def layer_card(view: ModelView) -> Card:
    steps = layer_steps(view.residual) if view.residual.measured else []
    step = max(1, math.ceil(len(view.residual.writers) * len(view.residual.columns) / MOST_POINTS))
    figures = {
        str(index): plot_layer(thinned([presence(view.residual, writer) for writer in members], step))
        for index, (_, members) in enumerate(steps)
    }
    left_out = f" Drawn are one state in {step}, and those where a writer of the layer is first." if step > 1 else ""
    return Card(
        "All writers of a layer",
        "Median share of each writer's output in each state, one layer at a time; the large marker is the first "
        "state with the writer's output, before which a value is what happens to lie along it already. Click a name "
        "in the legend to hide it, double-click to see it alone. Medians beyond ±4 are outside the axis."
        f"{left_out}",
        figures,
        [Control("Layer", [name for name, _ in steps], "range")] if steps else [],
        empty="The table residual_projection is missing or holds no measured writer.",
        tables=("residual_projection",),
    )
