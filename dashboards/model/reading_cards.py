"""What a model's page shows of erasing by reading: clean beside patched, the causal map, DLA, each layer's writers.

Runs that did not measure V-composition have cards that say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model_tables import Grid, ModelTables, dla_of
from erasure_sweep.dashboards.plots.causal_map import (
    DLA_HOVER,
    READING_HOVER,
    Columns,
    Look,
    causal_map,
    colour_limit,
    dla_map,
    plot_map,
)
from erasure_sweep.dashboards.plots.clean_and_patched import (
    clean_and_patched,
    plot_clean_and_patched,
    plot_erased_by_layer,
)
from erasure_sweep.dashboards.plots.heatmaps import MAX_WRITERS, TOP_ROWS
from erasure_sweep.workers.tables.facts.verified import LATER
from erasure_sweep.workers.tables.values import numeric

OUTPUTS = Control("Outputs", ["as they are", "means removed"])
BETA_TITLE = "β"
_COLUMNS: tuple[tuple[Columns, str], ...] = (("heads", "heads"), ("layers", "whole layers"))
_ERASERS = Control("Erasers", [name for _, name in _COLUMNS])
_ROWS = Control("Writers", ["all, in stream order", "the most erased"])
_EFFECTS = (("v_composition", "the part read from the writer"), ("full", "its whole output"))
_RULE = "Erasers are heads whose V-composed part has a median of at most −τ (0.05 by default) and an upper quartile < 0"
_NOT_MEASURED = "This run did not measure it, or no measured writer has a later attention layer"


def reading_cards(
    model: ModelTables, reading: Grid, writers: pd.DataFrame, top: Sequence[str], offered: Sequence[str]
) -> list[Card]:
    """The cards in reading order; ``top`` are all measured writers by rank, ``offered`` those with figures alone."""
    return [
        _patched_card(reading, writers, offered),
        _layers_card(writers),
        _causal_card(reading, top),
        _dla_card(model, top),
    ]


def _patched_card(reading: Grid, writers: pd.DataFrame, offered: Sequence[str]) -> Card:
    measured = set(reading.measured)
    names = [writer for writer in offered if writer in measured]
    labels = writers["writer"].astype(str)
    erasers = dict(zip(labels, writers["erasers"], strict=True)) if "erasers" in writers else {}
    figures = {
        f"{index}.{number}": plot_clean_and_patched(clean_and_patched(reading, writer, erasers.get(writer), columns))
        for index, writer in enumerate(names)
        for number, (columns, _) in enumerate(_COLUMNS)
    }
    return Card(
        "patched",
        "Who erases a writer because it reads it",
        "Each later head's projection onto the writer, as it is and with the writer's output taken out of the head's "
        "value input (queries, keys and all other readers still see it). Where the second point moves to 0, the head "
        "wrote against the writer because it read it; where both stay below 0, it writes against it anyway. Where the "
        "first is near or above 0 and the second higher still, it takes out as well: without reading the writer the head "
        "would have added to it, for other reasons. Points "
        f"are medians over all measured tokens, bars the quartiles (25 to 75 %). {_RULE}; their names are bold, "
        "their places shaded. 'Whole layers' shows each later attention layer as one, the sum of all later heads, and "
        "the groups of heads that were named for this run. The axis ends at ±4.",
        figures,
        [Control("Writer", names), _ERASERS] if names else [],
        min_width=min(900, 18 * max((len(one.data[0].x) for one in figures.values()), default=0)),
        empty=f"{_NOT_MEASURED}: the table v_composition is missing or holds none.",
        tables=("v_composition", "writers"),
    )


def _layers_card(writers: pd.DataFrame) -> Card:
    measured = np.isfinite(numeric(writers, "erased_by_reading")).any()
    figures = {str(int(centred)): plot_erased_by_layer(writers, centred) for centred in (False, True)}
    return Card(
        "erased",
        "How much of each writer is erased by reading",
        "Each point is a writer: the share of its output that all later heads together take out because they read it, "
        "pooled over all tokens of the scan's prompts (−β of their V-composed part: 1 is all of it; below 0 they add to "
        "it). It is no net change: other components, and the same heads for other reasons, can write it back. Writers "
        "stand in their layers; grey boxes span the quartiles of four writers or more. Hollow points lie beyond the axis; "
        "their value is under the pointer. 'Means removed' takes each component's average over tokens out first: "
        "what is then still erased is information, not a constant.",
        figures if measured else {},
        [OUTPUTS] if measured else [],
        min_width=520,
        empty=f"{_NOT_MEASURED}: the table writers holds no erased_by_reading.",
        tables=("writers",),
    )


class _View(NamedTuple):
    """A choice of erasers and of the writers' order, and what it adds to a figure's key."""

    columns: Columns
    by_rank: bool
    key: str


def _views(grid: Grid) -> list[_View]:
    if _is_large(grid):
        return [_View("layers", False, "")]
    return [
        _View(columns, by_rank, f".{number}.{int(by_rank)}")
        for number, (columns, _) in enumerate(_COLUMNS)
        for by_rank in (False, True)
    ]


def _is_large(grid: Grid) -> bool:
    return len(grid.writers) > MAX_WRITERS


def _causal_card(reading: Grid, top: Sequence[str]) -> Card:
    figures: dict[str, go.Figure] = {}
    for view in _views(reading) if reading.measured else []:
        maps = [causal_map(reading, top, view.columns, centred=one, by_rank=view.by_rank) for one in (False, True)]
        look = Look(BETA_TITLE, colour_limit(maps), READING_HOVER)
        figures |= {
            f"{index}{view.key}": plot_map(one, look, x_title=x_title(one.columns)) for index, one in enumerate(maps)
        }
    return Card(
        "causal",
        "The causal map of erasure",
        "What each later head (column) writes along each writer (row) because it read it: β of its V-composed part, a "
        "share of the writer's output. Red removes, blue adds, the background's colour is 0; the exact numbers are "
        "under the pointer, with the median ratios as it is and without reading. Grey: the head is not later than the "
        "writer, or the writer was not measured. 'Whole layers' adds up each layer's heads, and all later heads. "
        f"'Means removed' takes each component's average over tokens out first.{_many(reading)}",
        figures,
        _map_controls(OUTPUTS, reading) if figures else [],
        min_width=520,
        empty=f"{_NOT_MEASURED}: the table v_composition is missing or holds none.",
        tables=("v_composition",),
    )


def _dla_card(model: ModelTables, top: Sequence[str]) -> Card:
    grids = [(name, grid) for effect, name in _EFFECTS if (grid := dla_of(model, effect)).measured]
    look = Look("r", 1.0, DLA_HOVER)
    figures = {}
    for index, (_, grid) in enumerate(grids):
        for view in _views(grid):
            shown = dla_map(grid, top, view.columns, by_rank=view.by_rank)
            figures[f"{index}{view.key}"] = plot_map(shown, look, x_title=x_title(shown.columns))
    effects = Control("Eraser's effect", [name for name, _ in grids])
    return Card(
        "dla",
        "Whether DLA counts what is erased",
        "Direct logit attribution (DLA) of a writer and of a later head, on the difference of the two most likely next "
        "tokens: their correlation r over all measured tokens. Red is negative: where the writer's DLA is high, the "
        "head takes it back, so the writer's DLA alone misleads; r and slope of −1 would be all of it. The exact "
        "numbers are under the pointer: r with its interval, and the slope of the head's DLA on the writer's. Grey: "
        f"the head is not later than the writer, or the writer was not measured.{_many(grids[0][1]) if grids else ''}",
        figures,
        _map_controls(effects, grids[0][1]) if grids else [],
        min_width=520,
        empty=f"{_NOT_MEASURED}: the table dla_correlation is missing or holds none.",
        tables=("dla_correlation",),
    )


def _map_controls(first: Control, grid: Grid) -> list[Control]:
    return [first] if _is_large(grid) else [first, _ERASERS, _ROWS]


def x_title(columns: Sequence[str]) -> str:
    """What the erasers of a map are."""
    return "later attention layer" if LATER in columns else "later head, in stream order"


def _many(grid: Grid) -> str:
    if not _is_large(grid):
        return ""
    return (
        f" This model has more than {MAX_WRITERS} writers before its last layer: rows are the median over each layer's "
        f"writers, then the {TOP_ROWS} most erased writers, columns whole attention layers. Every pair is in the "
        "parquet tables."
    )
