"""Models side by side in what is left of writers through relative depth.

Depth is relative, from 0 (the first state) to 1 (the last), so that models of any number of layers share an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.grids import residual_of
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.writers_table import most_erased
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.theme import (
    BLUE,
    GREEN,
    RATIO_TITLE,
    VERMILLION,
    figure,
    robust_range,
    single,
    text,
)
from erasure_sweep.dashboards.wording import first_of
from erasure_sweep.workers.tables.facts.erasure import top_writers, writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats

_MOST_PANELS = 24


class DepthLine(NamedTuple):
    """Median presence of one writer through relative depth.

    ``role``: ``most erased``, or ``most opposed`` where erasure was not measured, ``pos_embed`` or ``embed``.
    """

    writer: str
    role: str
    depth: Floats
    median: Floats


def depth_lines(model: ModelTables) -> list[DepthLine]:
    """Presence of the top writer, ``pos_embed`` and ``embed`` through a model's relative depth."""
    residual = residual_of(model.tables)
    depth = np.linspace(0, 1, len(residual.columns)) if len(residual.columns) > 1 else np.zeros(len(residual.columns))
    top = dict.fromkeys(top_writers(model.tables, 1), most_erased(writers_by_rank(model.tables)))
    # the top writer first, also where it is an embedding
    roles = top | {writer: top.get(writer, writer) for writer in ("pos_embed", "embed")}
    lines = [DepthLine(writer, role, depth, residual.row(writer, "median")) for writer, role in roles.items()]
    return [line for line in lines if np.isfinite(line.median).any()]


def plot_depth(lines: Sequence[DepthLine], y_range: list[float]) -> go.Figure:
    """One model's panel."""
    looks = {"pos_embed": (BLUE, "dash", "square"), "embed": (GREEN, "dot", "triangle-up")}
    data = []
    for line in lines:
        colour, dash, symbol = looks.get(line.role, (VERMILLION, "solid", "circle"))
        name = line.writer if line.writer == line.role else f"{line.writer} ({line.role})"
        data.append(
            go.Scatter(
                x=single(line.depth),
                y=single(line.median),
                name=text(name),
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 5},
                hovertemplate="depth %{x:.2f}: %{y:.3f}",
            )
        )
    return figure(
        data,
        x_title="relative depth",
        y_title="projection ratio",
        height=320,
        xaxis={"range": [-0.03, 1.03]},
        yaxis={"range": y_range},
        showlegend=True,
        margin={"l": 44, "r": 8, "t": 20, "b": 40},
    )


@card(COMPARISON, "depth", order=140)
def depth_card(view: ComparisonView) -> Card:
    """A panel per model."""
    models = view.shown
    names = display_names(models)
    found = {name: lines for name, model in zip(names, models, strict=True) if (lines := depth_lines(model))}
    panels = dict(list(found.items())[:_MOST_PANELS])
    values = [line.median for lines in panels.values() for line in lines]
    y_range = robust_range(np.concatenate(values), np.array([]), limit=4.0) if values else [0.0, 1.0]
    missing = [name for name in names if name not in found]
    left_out = f" Nothing was measured for {first_of(missing)}." if missing else ""
    left_out += f" Drawn are the first {len(panels)} of {len(found)} models." if len(panels) < len(found) else ""
    return Card(
        "What is left through depth",
        f"Median {RATIO_TITLE}, through each model's depth: 0 is the first state, 1 the last. Each model's most "
        "erased writer, means kept (the most opposed one where erasure was not measured) beside its embeddings; all "
        f"panels share one axis, which ends at ±4: a line that leaves it goes on beyond.{left_out}{view.note}",
        {str(index): plot_depth(lines, y_range) for index, lines in enumerate(panels.values())},
        panels=list(panels),
        empty="No model has a residual_projection with measured writers.",
        tables=("residual_projection", "writers"),
    )
