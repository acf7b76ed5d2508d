"""Medians with bars over the quartiles, run beside run: how a head's, an MLP's or a null's projection looks in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.plots.theme import BLUE, GREEN, ORANGE, figure, robust_range, shade, single, text
from erasure_sweep.dashboards.wording import eraser_name
from erasure_sweep.workers.tables.values import Floats, numeric

RATIO_LIMIT = 4.0
"""Where the axes of projection ratios end: tails beyond it come from tokens at which the writer writes little."""
_APART = 0.17
_AS_WIDE_AS = 16


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile of each place."""

    q25: Floats
    median: Floats
    q75: Floats


class RunStyle(NamedTuple):
    """What a run is called, and its points' colour and symbol."""

    name: str
    colour: str
    symbol: str


CLEAN = RunStyle("as it is", BLUE, "circle")
PATCHED = RunStyle("without reading the writer", ORANGE, "diamond")
READ = RunStyle("the part read from the writer", GREEN, "triangle-up")


def quartiles(table: pd.DataFrame, run: str = "") -> Quartiles:
    """A run's quartiles, row by row; without a run those of columns that name none."""
    return Quartiles(*(numeric(table, f"{run}_{name}" if run else name) for name in Quartiles._fields))


def median_points(
    at: Floats, names: Sequence[str], values: Quartiles, style: RunStyle, about: Sequence[str] = ()
) -> go.Scatter:
    """Medians with bars over the quartiles; ``about`` are words on each point under the pointer, after its numbers."""
    up, down = values.q75 - values.median, values.median - values.q25
    notes = [f"<br>{text(note)}" if note else "" for note in about] or [""] * len(names)
    return go.Scatter(
        x=single(at),
        y=single(values.median),
        error_y={
            **{"type": "data", "symmetric": False, "array": single(up), "arrayminus": single(down)},
            **{"width": 0, "thickness": 1.5, "color": shade(style.colour, 0.6)},
        },
        hovertext=[text(name) for name in names],
        text=notes if about else None,
        customdata=single(np.stack([values.q25, values.q75], axis=1)),
        name=style.name,
        mode="markers",
        marker={
            "color": style.colour,
            "symbol": style.symbol,
            "size": 7,
            "line": {"color": style.colour, "width": 1.5},
        },
        hovertemplate=(
            f"%{{hovertext}} {style.name}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}})"
            f"{'%{text}' if about else ''}<extra></extra>"
        ),
    )


def beside(n_places: int, n_runs: int) -> Floats:
    """How far each of several runs stands from the middle of its place; closer where there are few places."""
    apart = 2 * _APART * min(1.0, n_places / _AS_WIDE_AS)
    return (np.arange(n_runs, dtype=np.float64) - (n_runs - 1) / 2) * apart


def plot_runs(
    labels: Sequence[str],
    runs: Sequence[tuple[RunStyle, Quartiles]],
    *,
    x_title: str,
    y_title: str,
    sentence: str = "",
) -> go.Figure:
    """Runs side by side at every place; the axis leaves out distant tails."""
    places = np.arange(len(labels), dtype=np.float64)
    shifts = beside(len(labels), len(runs))
    names = [eraser_name(label) for label in labels]
    medians = np.concatenate([values.median for _, values in runs])
    edges = np.concatenate([np.append(values.q25, values.q75) for _, values in runs])
    return figure(
        [
            median_points(places + shift, names, values, style)
            for shift, (style, values) in zip(shifts, runs, strict=True)
        ],
        x_title=x_title,
        y_title=y_title,
        height=420,
        sentence=sentence,
        xaxis=named_places([text(name) for name in names]),
        yaxis={"range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=RATIO_LIMIT)},
        showlegend=True,
    )


def named_places(names: Sequence[str]) -> dict[str, object]:
    """An axis with a name under each place, upright where they are too many or too long to stand side by side."""
    longest = max((len(line) for name in names for line in name.split("<br>")), default=0)
    crowded = len(names) * longest > 120
    return {
        **{"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": list(names)},
        **{"tickfont": {"size": 10 if crowded else 12}, "showgrid": False, "zeroline": False},
        **{"range": [-0.6, len(names) - 0.4], **({"tickangle": -90} if crowded else {})},
    }
