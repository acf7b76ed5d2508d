"""Layers along an axis of components in stream order: where each begins, its name, and what is shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from erasure_sweep.dashboards.plots.theme import GREY, shade


class LayerSpan(NamedTuple):
    """Where one layer's components lie on an axis, ``first`` to ``last``; layer −1 is embeddings."""

    layer: int
    first: int
    last: int


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


def layer_dividers(spans: Sequence[LayerSpan]) -> list[dict[str, Any]]:
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
