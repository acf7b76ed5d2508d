"""Who writes along a writer, and who against it (Fig 2): every other component's projection onto it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.view import MODEL, WRITER_BY_WRITER, ModelView
from erasure_sweep.dashboards.plots.layer_axis import layer_dividers, layer_notes, layer_spans, shaded
from erasure_sweep.dashboards.plots.theme import (
    KIND_COLOURS,
    KIND_NAMES,
    KIND_SYMBOLS,
    figure,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import is_head, kind_of, place_of
from erasure_sweep.workers.tables.values import Floats

_NAMED_HEADS = 6


class ProjectionsOntoWriter(NamedTuple):
    """Projection of every component onto one writer, in stream order; ``later`` marks those that can have read it."""

    writer: str
    components: list[str]
    kinds: list[str]
    layers: list[int | None]
    later: list[bool]
    q25: Floats
    median: Floats
    q75: Floats


def onto_writer(components: Grid, writer: str) -> ProjectionsOntoWriter:
    """What Fig 2 shows: every component but the writer itself, and the sum of its own layer, which holds it."""
    own = place_of(writer)
    holds_it = {writer, f"attn{own.layer}"} if own and is_head(writer) else {writer}
    keep = [index for index, label in enumerate(components.columns) if label not in holds_it]
    labels = [components.columns[index] for index in keep]
    places = [place_of(label) for label in labels]
    return ProjectionsOntoWriter(
        writer,
        labels,
        [kind_of(label) for label in labels],
        [place.layer if place else None for place in places],
        [bool(own and place and place > own) for place in places],
        *(components.row(writer, name)[keep] for name in ("q25", "median", "q75")),
    )


def plot_onto(shown: ProjectionsOntoWriter) -> go.Figure:
    """Fig 2: median and quartiles of each component's projection onto the writer; shaded are those after it."""
    data = [_points(shown, kind) for kind in KIND_NAMES if kind in shown.kinds]
    quartiles = np.concatenate([shown.q25, shown.q75])
    spans = layer_spans(shown.layers)
    after = [index for index, later in enumerate(shown.later) if later]
    dense = len(shown.components) > 60
    return figure(
        data,
        x_title="component, in stream order",
        y_title=f"projection ratio onto {text(shown.writer)}",
        height=480,
        sentence=_onto_sentence(shown),
        xaxis={
            **{"type": "category", "categoryorder": "array", "categoryarray": [text(c) for c in shown.components]},
            **{"tickangle": -90, "tickfont": {"size": 10}, "range": [-0.6, len(shown.components) - 0.4]},
            **({"showgrid": False} if dense else {"dtick": 1, "tickmode": "linear"}),
        },
        yaxis={"range": robust_range(shown.median, quartiles, keep=(-0.2, 0.2), limit=4.0)},
        shapes=[*layer_dividers(spans), *([shaded(after[0], after[-1])] if after else [])],
        annotations=layer_notes(spans),
        showlegend=True,
        legend={"y": 1.08},
    )


def _points(shown: ProjectionsOntoWriter, kind: str) -> go.Scatter:
    at = np.array([index for index, other in enumerate(shown.kinds) if other == kind], dtype=int)
    low, middle, high = shown.q25[at], shown.median[at], shown.q75[at]
    colour = KIND_COLOURS[kind]
    return go.Scatter(
        x=[text(shown.components[index]) for index in at],
        y=single(middle),
        error_y={
            **{"type": "data", "symmetric": False, "array": single(high - middle), "arrayminus": single(middle - low)},
            **{"width": 0, "thickness": 1.5, "color": shade(colour, 0.6)},
        },
        customdata=single(np.stack([low, high], axis=1)),
        name=KIND_NAMES[kind],
        mode="markers",
        marker={"color": colour, "symbol": KIND_SYMBOLS[kind], "size": 7, "line": {"color": colour, "width": 1.5}},
        hovertemplate="%{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
    )


def _onto_sentence(shown: ProjectionsOntoWriter) -> str:
    if not np.isfinite(shown.median).any():
        return f"{shown.writer} was not measured: its output is zero, or the table lacks it."
    against = [
        (float(shown.median[index]), label)
        for index, label in enumerate(shown.components)
        if shown.kinds[index] == "head" and shown.later[index] and shown.q75[index] < 0
    ]
    if not against:
        return f"No later head writes against {shown.writer} at three quarters of the tokens or more."
    names = [f"{label}\u00a0{number(median)}" for median, label in sorted(against)]
    more = f" and {len(names) - _NAMED_HEADS} more" if len(names) > _NAMED_HEADS else ""
    return (
        f"Later heads that write against {shown.writer} at three quarters of the tokens or more, with their medians: "
        f"{', '.join(names[:_NAMED_HEADS])}{more}."
    )


@card(MODEL, "onto", WRITER_BY_WRITER, order=30)
def onto_card(view: ModelView) -> Card:
    measured = set(view.components.measured)
    writers = [writer for writer in view.offered if writer in measured]
    return Card(
        "Who writes along a writer, and who against it",
        "Projection of every other component's output onto the writer's: above 0 it adds to what the writer wrote, "
        "below 0 it takes away. Points are medians over all measured tokens, bars the quartiles (25 to 75 %). "
        "Shaded are components after the writer, which can have read it; others coincide with it by chance or "
        "design. A whole attention layer is the sum of its heads and bias; a head's own layer, which holds the head "
        "itself, is left out. The axis ends at ±4.",
        {str(index): plot_onto(onto_writer(view.components, writer)) for index, writer in enumerate(writers)},
        [Control("Writer", writers)] if writers else [],
        min_width=min(900, 14 * len(view.components.columns)),
        empty="The table component_projection is missing or holds no measured writer.",
        tables=("component_projection",),
    )
