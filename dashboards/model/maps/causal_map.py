"""The causal map of erasure: what each later head writes along each writer because it read it."""

from __future__ import annotations

import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card
from erasure_sweep.dashboards.model.maps.choices import NOT_MEASURED, if_many_writers, map_choices, map_controls
from erasure_sweep.dashboards.model.view import GLANCE, MODEL, ModelView
from erasure_sweep.dashboards.plots.writer_maps import (
    BETA_TITLE,
    READING_HOVER,
    MapStyle,
    causal_map,
    colour_limit,
    plot_map,
    x_title,
)


@card(MODEL, "causal", GLANCE, order=30, alone=True)
def causal_card(view: ModelView) -> Card:
    figures: dict[str, go.Figure] = {}
    for choice in map_choices(view.reading) if view.reading.measured else []:
        maps = [
            causal_map(view.reading, view.top, choice.columns, centred=one, by_rank=choice.by_rank)
            for one in (False, True)
        ]
        style = MapStyle(BETA_TITLE, colour_limit(maps), READING_HOVER)
        figures |= {
            f"{index}{choice.key}": plot_map(one, style, x_title=x_title(one.columns)) for index, one in enumerate(maps)
        }
    return Card(
        "The causal map of erasure",
        "What each later head (column) writes along each writer (row) because it read it: β of its V-composed part, a "
        "share of the writer's output. Red removes, blue adds, the background's colour is 0; the exact numbers are "
        "under the pointer, with the median ratios as it is and without reading. Grey: the head is not later than the "
        "writer, or the writer was not measured. 'Whole layers' adds up each layer's heads. Layers do not add up to what is "
        "erased: what one took out the next no longer reads. "
        f"'Means removed' takes each component's average over tokens out first.{if_many_writers(view.reading)}",
        figures,
        map_controls(OUTPUTS, view.reading) if figures else [],
        min_width=520,
        empty=f"{NOT_MEASURED}: the table v_composition is missing or holds none.",
        tables=("v_composition",),
    )
