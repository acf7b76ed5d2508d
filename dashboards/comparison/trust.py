"""How many components' DLA can be trusted, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView, not_measured
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.trust import UNKNOWN, ranges, word_counts
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.theme import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    figure,
    model_ticks,
    shade,
    text,
)
from erasure_sweep.workers.tables.facts.trust import (
    AMPLIFIED,
    CANCELLED,
    CONSTANT,
    HOLDS,
    PARTLY,
    REVERSED,
    UNRELATED,
    WORDS,
    thresholds_of,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_LEAST_NUMBERED = 0.025
"""How high a segment must be for its number, as a share of the highest bar."""
_COLOURS = {
    **{HOLDS: BLUE, AMPLIFIED: GREEN, PARTLY: SKY, CANCELLED: ORANGE, REVERSED: VERMILLION, UNRELATED: PURPLE},
    **{CONSTANT: GREY, UNKNOWN: GREY},
}
_OVERLAY = {"fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.4, "solidity": 0.15, "size": 9}
_PATTERNS = {
    HOLDS: "",
    AMPLIFIED: "+",
    PARTLY: "/",
    CANCELLED: "x",
    REVERSED: "-",
    UNRELATED: "\\",
    CONSTANT: "|",
    UNKNOWN: ".",
}


class TrustBars(NamedTuple):
    """Per model, how many of its components have each word; a model without the table has none."""

    models: list[str]
    counts: list[dict[str, int]]


def trust_bars(named: Sequence[tuple[str, ModelTables]]) -> TrustBars:
    """What the comparison shows of trust: the models in which it was measured."""
    found = [(name, word_counts(model)) for name, model in named]
    return TrustBars([name for name, counts in found if counts], [counts for _, counts in found if counts])


def plot_trust(shown: TrustBars, as_share: bool = False) -> go.Figure:
    """Stacked bars, a word's share or number of each model's components; the numbers stand in the bars."""
    totals = [sum(counts.values()) for counts in shown.counts]
    highest = 1 if as_share else max(totals, default=1)
    words = dict.fromkeys([*WORDS, UNKNOWN, *(word for counts in shown.counts for word in counts)])
    data = []
    for word in words:
        numbers = [counts.get(word, 0) for counts in shown.counts]
        if not any(numbers):
            continue
        colour = _COLOURS.get(word, GREY)
        heights = [n / total if as_share else n for n, total in zip(numbers, totals, strict=True)]
        data.append(
            go.Bar(
                x=[text(name) for name in shown.models],
                y=heights,
                name=text(word),
                text=[
                    str(n) if n and height >= _LEAST_NUMBERED * highest else ""
                    for n, height in zip(numbers, heights, strict=True)
                ],
                textposition="inside",
                # a number that is shrunk into a low segment cannot be read
                constraintext="none",
                insidetextfont={"size": 10},
                insidetextanchor="middle",
                textangle=0,
                customdata=[[n, total] for n, total in zip(numbers, totals, strict=True)],
                marker={
                    "color": colour,
                    "pattern": {**_OVERLAY, "shape": _PATTERNS.get(word, "|")},
                    "line": {"color": shade(GREY, 0.8), "width": 1},
                },
                hovertemplate=f"<b>%{{x}}</b><br>{text(word)}: %{{customdata[0]}} of %{{customdata[1]}}<extra></extra>",
            )
        )
    return figure(
        data,
        x_title="model",
        y_title="share of components" if as_share else "components",
        height=520,
        barmode="stack",
        bargap=0.35,
        xaxis={"type": "category", "showgrid": False, **model_ticks(shown.models)},
        yaxis={"tickformat": ".0%", "range": [0, 1]} if as_share else {"rangemode": "tozero"},
        showlegend=True,
        legend={"traceorder": "normal"},
    )


@card(COMPARISON, "trust", order=100)
def trust_card(view: ComparisonView) -> Card:
    """Bars of the words of trust, as numbers and as shares."""
    models = view.shown
    named = list(zip(display_names(models), models, strict=True))
    shown = trust_bars(named)
    limits = {thresholds_of(model.tables) for name, model in named if name in shown.models}
    figures = {str(int(as_share)): plot_trust(shown, as_share) for as_share in (False, True)} if shown.models else {}
    return Card(
        "How many components' DLA can be trusted",
        "Components by what their direct logit attribution (DLA) is worth: each is replaced by its mean, everything later is "
        "computed anew, and what that does to the logits is held against what DLA says. "
        f"Words: {ranges(*limits) if len(limits) < 2 else 'by thresholds of each model'}."
        f" Words are counted whether or not they are settled.{not_measured(models, shown.models)}{view.note}",
        figures,
        [Control("Bars", ["number of components", "share of components"])] if figures else [],
        min_width=min(1000, 90 * len(shown.models)),
        empty="This was not measured in any model: the sweep did not verify.",
        tables=("dla_trust",),
    )
