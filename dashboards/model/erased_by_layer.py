"""How much of each writer is erased: a point per writer, a strip per layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card
from erasure_sweep.dashboards.model.maps.choices import NOT_MEASURED
from erasure_sweep.dashboards.model.view import GLANCE, MODEL, ModelView
from erasure_sweep.dashboards.plots.writer_strips import ERASED, plot_strips, strip_points, strongest_points
from erasure_sweep.dashboards.wording import nothing_erased, number
from erasure_sweep.workers.labels import place_of
from erasure_sweep.workers.tables.facts.erasure import clearly_erased
from erasure_sweep.workers.tables.values import numeric

_NAMED_POINTS = 5


def layer_strips(writers: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of ``writers`` layer by layer, in the order of the stream, embeddings first."""
    labels = writers["writer"].astype(str)
    layers = np.array([place.layer if (place := place_of(label)) else np.nan for label in labels], dtype=float)
    return [
        ("embeddings" if layer < 0 else f"layer {int(layer)}", writers[layers == layer])
        for layer in sorted(set(layers[np.isfinite(layers)]))
    ]


def plot_erased_by_layer(writers: pd.DataFrame, centred: bool = False) -> go.Figure:
    """What later heads erase of each writer because they read it, a strip per layer."""
    strips = layer_strips(writers)
    drawn = strip_points(strips, ERASED, centred)
    top = strongest_points(drawn, ERASED, len(drawn))
    top = top[top["writer"].isin(clearly_erased({"writers": writers})["writer"].astype(str))][:_NAMED_POINTS]
    listed = [f"{writer}\u00a0{number(value)}" for writer, value in zip(top["writer"], top["value"], strict=True)]
    absent = [name for name, rows in strips if not np.isfinite(numeric(rows, "erased")).any()]
    sentence = f"Most erased: {', '.join(listed)}." if listed else f"Erased: {nothing_erased([{'writers': writers}])}"
    return plot_strips(
        drawn,
        [name for name, _ in strips],
        ERASED,
        x_title="layer of the writer",
        named=_NAMED_POINTS,
        sentence=sentence + (f" No later heads, or not measured: {', '.join(absent)}." if absent else ""),
    )


@card(MODEL, "erased", GLANCE, order=20)
def erased_card(view: ModelView) -> Card:
    measured = np.isfinite(numeric(view.writers, "erased")).any()
    figures = {str(int(centred)): plot_erased_by_layer(view.writers, centred) for centred in (False, True)}
    return Card(
        "How much of each writer is erased",
        "Each point is a writer: the share of its output that all later heads together take out because they read it, or "
        "what earlier ones left of it, pooled over all tokens (1 is all of it; below 0 they add to it). It is no net "
        "change: other components, and the same heads for other reasons, can write it back. Writers "
        "stand in their layers; grey boxes span the quartiles of four writers or more. Hollow points lie beyond the axis; "
        "their value is under the pointer. 'Means removed' takes each component's average over tokens out first: "
        "what is then still erased is information, not a constant.",
        figures if measured else {},
        [OUTPUTS] if measured else [],
        min_width=520,
        empty=f"{NOT_MEASURED}: the table writers holds no erased.",
        tables=("writers",),
    )
