"""How figures look: colours, light and dark templates, ranges that wild tails cannot flatten, escaping.

Colours are Okabe and Ito's, told apart by colour-blind readers, on a dark page lighter; where they repeat, dashes and
symbols change, so nothing rests on colour alone. Plotly reads markup in every string, so what comes from data is
escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.workers.tables.values import Floats

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY, GREY = "#E69F00", "#CC79A7", "#56B4E9", "#8a8f98"
INK = "#111417"
"""Of what stands on coloured bars."""
CYCLE = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")

KIND_COLOURS = {
    "embeddings": GREEN,
    "head": BLUE,
    "MLP": VERMILLION,
    "bias": GREY,
    "attention": PURPLE,
    "other": ORANGE,
}
KIND_SYMBOLS = {
    "embeddings": "triangle-up",
    "head": "circle",
    "MLP": "square",
    "bias": "x-thin-open",
    "attention": "diamond-open",
    "other": "star",
}
KIND_NAMES = {
    "embeddings": "embeddings",
    "head": "attention head",
    "MLP": "MLP",
    "bias": "attention bias b_O",
    "attention": "whole attention layer",
    "other": "other",
}

RATIO_TITLE = "projection ratio (share of the writer's output present)"
_MOST_LETTERS = 70
PALE = 0.3
"""How strong the fill of a family's other widths is."""
BLANK = "#dcdcdc"
"""The ground of a map, seen where a cell has no value; no colour of the scale is like it, that of zero least."""
ON_DARK = {
    **{BLUE: "#3f9bf0", VERMILLION: "#f5793a", GREEN: "#35c48f", ORANGE: "#f5bd3d"},
    **{PURPLE: "#e5a0c8", SKY: "#a9dcff", GREY: "#a7aeb9", BLANK: "#3f4145"},
    INK: "#f4f6f8",
}
"""What ``assets/looks.js`` draws instead of these colours on a dark page: the same hues, light enough to be seen."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# the middle of a diverging scale is near the page's own background, and what is further from 0 stands out more: darker on
# a light page, lighter on a dark one
_DIVERGING = {
    "light": ("#b2182b", "#ef8a62", "#f7f7f7", "#67a9cf", "#2166ac"),
    "dark": ("#ffa08f", "#c0392f", "#23272f", "#2f6db3", "#8cc6ff"),
}
_INK = {"light": ("#1b1f24", "#d9dde3", "#9aa1ab", "#ffffff"), "dark": ("#e6e8eb", "#343a44", "#6c7480", "#23272f")}


def text(value: object) -> str:
    """A string from data as plotly shows it literally."""
    return html.escape(str(value), quote=False).replace("%{", "%\u200b{")


def template(scheme: str) -> go.layout.Template:
    """Plotly template for the ``light`` or ``dark`` colour scheme; backgrounds stay transparent."""
    ink, grid, line, card = _INK[scheme]
    axis = {
        **{"gridcolor": grid, "zerolinecolor": line, "linecolor": line, "tickcolor": line, "zeroline": True},
        **{"automargin": True, "title": {"standoff": 12, "font": {"size": 13}}, "ticks": "outside", "ticklen": 4},
    }
    diverging = [[place / 4, colour] for place, colour in enumerate(_DIVERGING[scheme])]
    cycle = CYCLE if scheme == "light" else [ON_DARK[colour] for colour in CYCLE]
    return go.layout.Template(
        layout={
            **{"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "colorway": list(cycle)},
            "font": {"family": FONT, "size": 13, "color": ink},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": card,
                "bordercolor": line,
                "font": {"color": ink, "family": FONT},
                "align": "left",
            },
            # plotly would choose them for a black page, as which it takes the transparent background
            "modebar": {"bgcolor": card, "color": ink, "activecolor": BLUE if scheme == "light" else SKY},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
            "margin": {"l": 60, "r": 16, "t": 24, "b": 48},
            "coloraxis": {"colorscale": diverging, "colorbar": {"thickness": 12, "outlinewidth": 0}},
        },
        data={"waterfall": [{"connector": {"line": {"color": line, "width": 1}}}]},
    )


LIGHT = template("light")
_NONE = go.layout.Template()


def figure(
    data: list[Any], *, x_title: str, y_title: str, height: int = 420, sentence: str = "", **layout: Any
) -> go.Figure:
    """A figure for a page; ``sentence`` says in words what this one shows and goes under it.

    It has no template: a page and an image bring theirs, and plotly would take a third of its time to check a copy.
    """
    base: dict[str, Any] = {"template": _NONE, "height": height, "meta": {"sentence": sentence}}
    if any(isinstance(trace, go.Heatmap) for trace in data):
        base["plot_bgcolor"] = BLANK
    x_axis = {"title": {"text": x_title}, **layout.pop("xaxis", {})}
    y_axis = {"title": {"text": y_title}, **layout.pop("yaxis", {})}
    return go.Figure(data=data, layout={**base, "xaxis": x_axis, "yaxis": y_axis, **layout})


def lone_figure(data: list[Any], **rest: Any) -> go.Figure:
    """A figure that is also shown by itself, in a notebook; as ``figure``, with the light template."""
    return figure(data, **rest).update_layout(template=LIGHT)


def look_of(at: int) -> tuple[str, str]:
    """Colour and symbol of the ``at``-th of several series; none is like another for as long as there are others."""
    return CYCLE[at % len(CYCLE)], SYMBOLS[(at + at // len(CYCLE)) % len(SYMBOLS)]


def model_ticks(names: Sequence[str]) -> dict[str, Any]:
    """Ticks of an axis of models, slanted where their names are too long to stand side by side."""
    crowded = sum(len(name) for name in names) > _MOST_LETTERS
    return {"tickfont": {"size": 11 if crowded else 13}, **({"tickangle": -40} if crowded else {})}


def robust_range(
    core: Floats, wings: Floats, keep: tuple[float, float] = (0.0, 1.0), limit: float = np.inf
) -> list[float]:
    """Axis range that shows ``core`` and ``keep`` whole and of ``wings`` what lies near them.

    Projection ratios have wild tails where a writer's output is small. ``wings`` widen the
    range by at most half of what core and keep span, on each side; nothing widens it beyond ±``limit``.
    """
    inside = np.clip(np.append(core[np.isfinite(core)], keep), -limit, limit)
    low, high = float(inside.min()), float(inside.max())
    lowest, highest = max(-limit, low - (high - low) / 2), min(limit, high + (high - low) / 2)
    reach = np.clip(np.append(wings[np.isfinite(wings)], (low, high)), lowest, highest)
    low, high = float(reach.min()), float(reach.max())
    margin = 0.04 * (high - low)
    return [low - margin, high + margin]


def error_bars(intervals: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Bars over intervals: of each the number, its lower end and its upper one."""
    ends: Floats = np.array(intervals, dtype=np.float64).reshape(-1, 3)
    up, down = ends[:, 2] - ends[:, 0], ends[:, 0] - ends[:, 1]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 3}


def shade(colour: str, alpha: float) -> str:
    """``#rrggbb`` with transparency."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def single(values: Floats) -> Any:
    """Values as float32: half the page, and more digits than anyone reads."""
    return np.asarray(values, dtype=np.float32)
