"""All writers at once: how much each state holds of them, and how each component projects onto them.

A model with hundreds of writers does not fit a screen. There the rows are each layer's median over its writers and the
most opposed writers, and the columns of the component heatmap are whole sublayers; every pair is in the parquet
tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.view import ALL_WRITERS, MODEL, ModelView
from erasure_sweep.dashboards.model.writers_table import most_erased
from erasure_sweep.dashboards.plots.layer_rows import MAX_WRITERS, TOP_ROWS, column_medians, layer_groups
from erasure_sweep.dashboards.plots.theme import figure, single, text
from erasure_sweep.workers.labels import is_head, kind_of, place_of
from erasure_sweep.workers.tables.values import Floats


class Heatmap(NamedTuple):
    """Medians and quartiles [row, column]; ``aggregated``: rows are layers and top writers, not all writers."""

    rows: list[str]
    columns: list[str]
    median: Floats
    q25: Floats
    q75: Floats
    aggregated: bool


def heatmap(grid: Grid, top: Sequence[str], max_writers: int = MAX_WRITERS) -> Heatmap:
    """What a heatmap of this table shows; ``top`` are the writers to keep where there are too many for a row each."""
    own = _own_layers(grid)
    values = {name: np.where(own, np.nan, grid.values[name]) for name in ("median", "q25", "q75")}
    if len(grid.writers) <= max_writers:
        return Heatmap(grid.writers, grid.columns, values["median"], values["q25"], values["q75"], False)
    keep = [index for index, name in enumerate(grid.columns) if kind_of(name) not in ("head", "bias")]
    single_rows = [writer for writer in top[:TOP_ROWS] if writer in grid.row_index]
    groups = layer_groups(grid)
    rows = [*groups, *single_rows]
    stacked = {}
    for name, all_columns in values.items():
        matrix = all_columns[:, keep]
        layers = [column_medians(matrix[members]) for members in groups.values()]
        stacked[name] = np.array([*layers, *(matrix[grid.row_index[writer]] for writer in single_rows)])
    columns = [grid.columns[index] for index in keep]
    return Heatmap(rows, columns, stacked["median"], stacked["q25"], stacked["q75"], True)


def _own_layers(grid: Grid) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a head meets the sum of its own attention layer, which holds the head itself."""
    places = [place_of(writer) if is_head(writer) else None for writer in grid.writers]
    layers = [f"attn{place.layer}" if place else None for place in places]
    return np.array([[layer == name for name in grid.columns] for layer in layers], dtype=bool).reshape(
        len(grid.writers), len(grid.columns)
    )


def plot_heatmap(shown: Heatmap, x_title: str) -> go.Figure:
    """Diverging colours around 0, saturated at ±1; blank is not measured."""
    colour_bar = {"title": {"text": "median<br>ratio"}, "tickvals": [-1, -0.5, 0, 0.5, 1]}
    bars = {"ticktext": ["≤ −1", "−0.5", "0", "0.5", "≥ 1"], "len": 1, "y": 0.5}
    cells = go.Heatmap(
        x=[text(name) for name in shown.columns],
        y=[text(name) for name in shown.rows],
        z=single(shown.median),
        customdata=single(np.stack([shown.q25, shown.q75], axis=-1)),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate="%{y} at %{x}: %{z:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
    )
    rows = len(shown.rows)
    return figure(
        [cells],
        x_title=x_title,
        y_title="writer",
        height=int(np.clip(15 * rows + 140, 320, 1100)),
        xaxis={
            "type": "category",
            "tickangle": -90,
            "tickfont": {"size": 10},
            "showgrid": False,
            "constrain": "domain",
        },
        yaxis={"type": "category", "autorange": "reversed", "tickfont": {"size": 10}, "showgrid": False},
        coloraxis={"cmin": -1, "cmax": 1, "colorbar": {**colour_bar, **bars}},
    )


@card(MODEL, "heatmaps", ALL_WRITERS, order=10)
def heatmap_card(view: ModelView) -> Card:
    figures: dict[str, go.Figure] = {}
    names: list[str] = []
    aggregated = False
    for grid, name, title in (
        (view.residual, "states of the residual stream", "state of the residual stream"),
        (view.components, "components", "component"),
    ):
        if grid.measured:
            shown = heatmap(grid, view.top)
            aggregated = aggregated or shown.aggregated
            figures[str(len(names))] = plot_heatmap(shown, title)
            names.append(name)
    many = (
        f" This model has more than {MAX_WRITERS} writers: rows are the median over each layer's writers, then the "
        f"{TOP_ROWS} {most_erased(view.writers)} writers; component columns are whole attention layers, MLPs and "
        "embeddings. Every pair is in the parquet tables."
    )
    return Card(
        "All writers at once",
        "Median projection ratio onto each writer (row): of each state, or of each other component. Blue is present "
        "or added, red is opposed, white (dark on a dark page) is 0; colours end at ±1, the exact numbers and quartiles "
        "are under the pointer. Grey is the writer itself, its own attention layer, or not measured."
        f"{many if aggregated else ''}",
        figures,
        [Control("Columns", names)] if names else [],
        min_width=520,
        empty="Neither residual_projection nor component_projection holds a measured writer.",
        tables=("residual_projection", "component_projection"),
    )
