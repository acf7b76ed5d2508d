"""Figures of projection ratios: what is left of a writer (Fig 1) and who writes along it (Fig 2).

Each figure is two steps: tables to what is shown, then that to plotly. Medians and quartiles are over every measured
token, as in the published figures: lines with a band from the lower to the upper quartile, points with error bars over
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.model_tables import Grid
from erasure_sweep.dashboards.plots.theme import (
    CYCLE,
    DASHES,
    GREY,
    KIND_COLOURS,
    KIND_NAMES,
    KIND_SYMBOLS,
    RATIO_TITLE,
    SYMBOLS,
    figure,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import is_head, kind_of, place_of, state_place
from erasure_sweep.workers.tables.values import Floats

_NAMED_HEADS = 6
STATE_TITLE = "state of the residual stream"


class Presence(NamedTuple):
    """How much of one writer each state holds; ``written_at`` is the index of the first state with its output."""

    writer: str
    states: list[str]
    written_at: int | None
    q12_5: Floats
    q25: Floats
    median: Floats
    q75: Floats
    q87_5: Floats


class Onto(NamedTuple):
    """Projection of every component onto one writer, in stream order; ``later`` marks those that can have read it."""

    writer: str
    components: list[str]
    kinds: list[str]
    layers: list[int | None]
    later: list[bool]
    q25: Floats
    median: Floats
    q75: Floats


class LayerSpan(NamedTuple):
    """Where one layer's components lie on an axis, ``first`` to ``last``; layer −1 is embeddings."""

    layer: int
    first: int
    last: int


def presence(residual: Grid, writer: str) -> Presence:
    """One line of Fig 1."""
    place = place_of(writer)
    reached = [i for i, state in enumerate(residual.columns) if place and (state_place(state) or (-9, 0)) >= place]
    quantiles = [residual.row(writer, name) for name in ("q12_5", "q25", "median", "q75", "q87_5")]
    return Presence(writer, residual.columns, reached[0] if reached else None, *quantiles)


def plot_presence(shown: Sequence[Presence]) -> go.Figure:
    """Fig 1: median and quartiles per writer; for one writer alone also 12.5–87.5 % and where it writes."""
    alone = len(shown) == 1
    data: list[Any] = []
    for index, one in enumerate(shown):
        colour = CYCLE[index % len(CYCLE)]
        if alone:
            data += band(one.states, one.q12_5, one.q87_5, shade(colour, 0.12), one.writer)
        data += band(one.states, one.q25, one.q75, shade(colour, 0.24 if alone else 0.13), one.writer)
        data.append(_line(one, colour, DASHES[0], SYMBOLS[index % len(SYMBOLS)]))
    medians = np.concatenate([one.median for one in shown]) if shown else np.array([])
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


def band(states: list[str], low: Floats, high: Floats, fill: str, group: str) -> list[Any]:
    """A filled band between two lines over named places, of the legend's ``group``."""
    seen = np.isfinite(low) & np.isfinite(high)
    x = [state for state, ok in zip(states, seen, strict=True) if ok]
    outline = np.concatenate([high[seen], low[seen][::-1]])
    style = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": fill, "hoverinfo": "skip"}
    return [go.Scatter(x=x + x[::-1], y=single(outline), showlegend=False, legendgroup=text(group), **style)]


def _line(one: Presence, colour: str, dash: str, symbol: str) -> go.Scatter:
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


def _written_line(one: Presence) -> list[dict[str, Any]]:
    if not one.written_at:
        return []
    x = one.written_at - 0.5
    return [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "color": GREY}}
    ]


def _written_note(one: Presence) -> list[dict[str, Any]]:
    if not one.written_at:
        return []
    note = {"text": f"{text(one.writer)} writes here", "showarrow": False, "yref": "paper", "y": 1, "yanchor": "bottom"}
    near_end = one.written_at > 0.7 * len(one.states)
    return [{**note, "x": one.written_at - 0.5, "xanchor": "right" if near_end else "left"}]


def _presence_sentence(one: Presence) -> str:
    if one.written_at is None or not np.isfinite(one.median[[one.written_at, -1]]).all():
        return f"{one.writer} was not measured: its output is zero, or the table lacks it."
    start, end = one.median[one.written_at], one.median[-1]
    written, last = one.states[one.written_at], one.states[-1]
    return f"{one.writer}: median {number(start)} at {written}, {number(end)} at {last}."


def layer_steps(residual: Grid) -> list[tuple[str, list[str]]]:
    """Steps of the layer slider: the embeddings, then each layer's writers."""
    steps: dict[str, list[str]] = {}
    for writer in residual.writers:
        place = place_of(writer)
        name = "other" if place is None else "embeddings" if place.layer < 0 else f"layer {place.layer}"
        steps.setdefault(name, []).append(writer)
    return list(steps.items())


def plot_layer(shown: Sequence[Presence]) -> go.Figure:
    """Median presence of every writer of one layer, as in the appendix of the published work."""
    data = []
    for index, one in enumerate(shown):
        turn = index // len(CYCLE)
        data.append(_line(one, CYCLE[index % len(CYCLE)], DASHES[turn % len(DASHES)], SYMBOLS[turn % len(SYMBOLS)]))
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


def onto_writer(components: Grid, writer: str) -> Onto:
    """What Fig 2 shows: every component but the writer itself, and the sum of its own layer, which holds it."""
    own = place_of(writer)
    holds_it = {writer, f"attn{own.layer}"} if own and is_head(writer) else {writer}
    keep = [index for index, label in enumerate(components.columns) if label not in holds_it]
    labels = [components.columns[index] for index in keep]
    places = [place_of(label) for label in labels]
    return Onto(
        writer,
        labels,
        [kind_of(label) for label in labels],
        [place.layer if place else None for place in places],
        [bool(own and place and place > own) for place in places],
        *(components.row(writer, name)[keep] for name in ("q25", "median", "q75")),
    )


def layer_spans(layers: Sequence[int | None]) -> list[LayerSpan]:
    """Runs of one layer along an axis of components in stream order."""
    spans: list[LayerSpan] = []
    for index, layer in enumerate(layers):
        if layer is None:
            continue
        if spans and spans[-1].layer == layer:
            spans[-1] = spans[-1]._replace(last=index)
        else:
            spans.append(LayerSpan(layer, index, index))
    return spans


def plot_onto(shown: Onto) -> go.Figure:
    """Fig 2: median and quartiles of each component's projection onto the writer; shaded are those after it."""
    data = [_points(shown, kind) for kind in KIND_NAMES if kind in shown.kinds]
    quartiles = np.concatenate([shown.q25, shown.q75])
    spans = layer_spans(shown.layers)
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
        shapes=_shapes(shown, spans),
        annotations=layer_notes(spans),
        showlegend=True,
        legend={"y": 1.08},
    )


def _points(shown: Onto, kind: str) -> go.Scatter:
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


def _shapes(shown: Onto, spans: list[LayerSpan]) -> list[dict[str, Any]]:
    after = [index for index, later in enumerate(shown.later) if later]
    return layer_lines(spans) + ([shaded(after[0], after[-1])] if after else [])


def layer_lines(spans: Sequence[LayerSpan]) -> list[dict[str, Any]]:
    """Thin lines between the layers of an axis."""
    line = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": {"color": shade(GREY, 0.5), "width": 1}}
    return [{**line, "x0": span.first - 0.5, "x1": span.first - 0.5} for span in spans[1:]]


def layer_notes(spans: Sequence[LayerSpan]) -> list[dict[str, Any]]:
    """The layers' names above an axis, where there are few enough to be read."""
    note = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
    named = [span for span in spans if span.layer >= 0] if len(spans) <= 14 else []
    return [{**note, "x": (span.first + span.last) / 2, "text": f"layer {span.layer}"} for span in named]


def shaded(first: int, last: int) -> dict[str, Any]:
    """A shaded background behind the places ``first`` to ``last`` of an axis."""
    box = {"type": "rect", "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 0}, "layer": "below"}
    return {**box, "x0": first - 0.5, "x1": last + 0.5, "fillcolor": shade(GREY, 0.13)}


def _onto_sentence(shown: Onto) -> str:
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
