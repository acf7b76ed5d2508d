"""Writers as points in strips: one strip per model or per layer, kinds apart by place, colour and symbol.

A strip shows one column of the ``writers`` table. Where a group has more writers than can be told apart, its strongest
are drawn and an even sample of the rest; the axis leaves out distant tails, which sit hollow on its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from erasure_sweep.dashboards.plots.theme import (
    GREY,
    KIND_COLOURS,
    KIND_NAMES,
    KIND_SYMBOLS,
    figure,
    model_ticks,
    shade,
    single,
    text,
)
from erasure_sweep.workers.labels import kind_of
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.values import Floats, numeric

MAX_POINTS = 300
_FEWEST_POINTS = 20
_ALL_POINTS = 6000
COLUMNS = ["group", "writer", "kind", "value", "written", "remaining"]
_OFFSETS = {"embeddings": -0.25, "head": 0.0, "MLP": 0.25, "other": 0.25}


# within this every value is on the axis; beyond, only where many are
_ALWAYS_SHOWN = 2.0
_LEAST_REACH = 0.2
_LEAST_FOR_QUARTILES = 4


class StripColumn(NamedTuple):
    """A column of ``writers``, what it is called, the sign of its strongest values, and what its numbers are."""

    column: str
    name: str
    sign: int
    unit: str = "share of the writer's output"


OPPOSED = StripColumn("opposed", "opposed", -1)
ERASED = StripColumn("erased", "erased", 1)
DLA_SLOPE = StripColumn("net_slope", "net DLA, slope", -1, "what is left per unit of the writer's own DLA")
DLA_R = StripColumn("net_r", "net DLA, r", -1, "correlation of the two over tokens")


def most_points(n_groups: int) -> int:
    """How many writers of a group are drawn: fewer where there are so many groups that a page would grow heavy."""
    return max(_FEWEST_POINTS, min(MAX_POINTS, _ALL_POINTS // max(n_groups, 1)))


def drawn_of(n: int, most: int) -> NDArray[np.intp]:
    """Which of ``n`` writers, strongest first, are drawn: of more than ``most`` half the strongest, half evenly of the rest."""
    if n <= most:
        return np.arange(n)
    rest = np.linspace(most // 2, n - 1, most - most // 2).round().astype(int)
    return np.array([*range(most // 2), *rest])


def spread(n: int) -> Floats:
    """Where points stand beside their place, from −0.5 to 0.5: steps of the golden ratio spread neighbours without chance."""
    return np.arange(n, dtype=np.float64) * 0.6180339887 % 1 - 0.5


def strip_points(
    groups: Sequence[tuple[str, pd.DataFrame]], measure: StripColumn, centred: bool = False, most: int = MAX_POINTS
) -> pd.DataFrame:
    """One row per writer to be drawn, strongest first in each group; unmeasured writers are left out.

    Args:
        groups: the strips' names and the rows of ``writers`` that belong to each.
        most: of a group with more writers half are its strongest, half spread evenly over the rest.
    """
    frames = []
    suffix = "_centred" if centred else ""
    for name, table in groups:
        columns = {"value": measure.column, "written": "written", "remaining": "remaining"}
        values = {key: numeric(table, f"{column}{suffix}") for key, column in columns.items()}
        rows = pd.DataFrame({"group": name, "writer": table["writer"].astype(str), **values})
        strength = measure.sign * rows["value"]
        rows = rows.assign(strength=strength)[np.isfinite(rows["value"])]
        rows = rows.sort_values("strength", kind="stable", ascending=False, ignore_index=True)
        rows = rows.iloc[drawn_of(len(rows), most)]
        frames.append(rows.assign(kind=[kind_of(writer) for writer in rows["writer"]]))
    return pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS)


def strip_range(points: pd.DataFrame, measure: StripColumn) -> tuple[float, float]:
    """Axis ends: 0, everything within ±2, and beyond that all but the furthest twentieth of the widest group."""
    low = high = 0.0
    for _, part in points.groupby("group", observed=True):
        values = part["value"].to_numpy(dtype=float)
        below, above = np.quantile(values, [0.05, 0.95])
        low = min(low, max(float(values.min()), min(-_ALWAYS_SHOWN, 1.3 * float(below))))
        high = max(high, min(float(values.max()), max(_ALWAYS_SHOWN, 1.3 * float(above))))
    return (min(low, -_LEAST_REACH), high) if measure.sign < 0 else (low, max(high, _LEAST_REACH))


def strongest_points(points: pd.DataFrame, measure: StripColumn, n: int) -> pd.DataFrame:
    """The ``n`` strongest of the drawn writers, fewer where less than that many are noticeable."""
    strength = measure.sign * points["value"].astype(float)
    order = strength.sort_values(kind="stable", ascending=False).index[:n]
    return points.loc[[index for index in order if strength[index] >= NOTICEABLE]]


def plot_strips(
    points: pd.DataFrame,
    groups: Sequence[str],
    measure: StripColumn,
    *,
    x_title: str = "model",
    named: int = 0,
    sentence: str = "",
) -> go.Figure:
    """A strip per group with the quartiles of what is drawn; the ``named`` strongest have their names beside them.

    ``x_title``: what the groups are.
    """
    position = {name: index for index, name in enumerate(groups)}
    low, high = strip_range(points, measure)
    names = set(strongest_points(points, measure, named)["writer"])
    data = [_quartiles(points, groups, low, high)]
    for kind in KIND_NAMES:
        part = points[points["kind"] == kind]
        if len(part):
            data.append(_strip(part, position, measure, (low, high), names))
    margin = 0.05 * (high - low)
    return figure(
        data,
        x_title=x_title,
        y_title=f"{measure.name}<br>({measure.unit})",
        height=460,
        sentence=sentence,
        xaxis={
            **{"tickmode": "array", "tickvals": list(range(len(groups))), "ticktext": [text(name) for name in groups]},
            **{"range": [-0.6, len(groups) - 0.4], "showgrid": False, "zeroline": False},
            **model_ticks(groups),
        },
        yaxis={"range": [low - margin, high + margin]},
        showlegend=True,
    )


def _quartiles(points: pd.DataFrame, groups: Sequence[str], low: float, high: float) -> go.Box:
    at, quartiles = [], []
    for index, name in enumerate(groups):
        values = points.loc[points["group"] == name, "value"].to_numpy(dtype=float)
        if len(values) >= _LEAST_FOR_QUARTILES:
            at.append(index)
            quartiles.append(np.quantile(values, [0.25, 0.5, 0.75]))
    first, middle, third = np.clip(np.array(quartiles).reshape(-1, 3), low, high).T
    return go.Box(
        x=at,
        q1=single(first),
        median=single(middle),
        q3=single(third),
        lowerfence=single(first),
        upperfence=single(third),
        width=0.8,
        name="quartiles",
        line={"color": shade(GREY, 0.8), "width": 1},
        fillcolor=shade(GREY, 0.15),
        hoverinfo="skip",
    )


def _strip(
    part: pd.DataFrame, position: dict[str, int], measure: StripColumn, ends: tuple[float, float], named: set[str]
) -> go.Scatter:
    kind = part["kind"].iloc[0]
    jitter = spread(len(part)) * (0.26 if kind == "head" else 0.12)
    # among heads names go to the side that a point stands on; embeddings and MLPs have room to their right
    on_left = (jitter < 0) & (kind == "head")
    values = part["value"].to_numpy(dtype=float)
    beyond = (values < ends[0]) | (values > ends[1])
    symbol = KIND_SYMBOLS[kind]
    return go.Scatter(
        x=single(part["group"].map(position).to_numpy(dtype=float) + _OFFSETS.get(kind, 0.0) + jitter),
        y=single(np.clip(values, *ends)),
        text=_names(part, named, on_left.tolist(), ends),
        textposition=["middle left" if left else "middle right" for left in on_left],
        textfont={"size": 11},
        hovertext=[text(writer) for writer in part["writer"]],
        customdata=single(part[["value", "written", "remaining"]].to_numpy(dtype=float)),
        # a file of what is drawn has the values themselves, also of points on the edge
        meta={"y": [round(value, 6) for value in values.tolist()]} if beyond.any() else None,
        name=KIND_NAMES[kind],
        mode="markers+text" if named else "markers",
        marker={
            "color": KIND_COLOURS[kind],
            "symbol": [f"{symbol}-open" if out else symbol for out in beyond],
            **{"size": 7, "opacity": 0.85},
        },
        hovertemplate=(
            f"<b>%{{hovertext}}</b><br>{measure.name} %{{customdata[0]:.3f}}<br>"
            "written %{customdata[1]:.3f}, remaining %{customdata[2]:.3f}<extra></extra>"
        ),
    )


def _names(part: pd.DataFrame, named: set[str], on_left: list[bool], ends: tuple[float, float]) -> list[str]:
    """Names of points, left out where one so near has its own on the same side already."""
    reach = 0.05 * (ends[1] - ends[0])
    placed: list[tuple[str, bool, float]] = []
    shown = []
    rows = part[["group", "writer", "value"]].itertuples(index=False)
    for (group, writer, value), left in zip(rows, on_left, strict=True):
        crowded = any((group, left) == other[:2] and abs(value - other[2]) < reach for other in placed)
        fits = writer in named and not crowded
        shown.append(text(writer) if fits else "")
        placed += [(group, left, value)] if fits else []
    return shown
