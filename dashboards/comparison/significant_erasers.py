"""How many erasers are significant, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView, not_measured
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, figure, model_ticks, shade, text
from erasure_sweep.dashboards.wording import amount
from erasure_sweep.workers.tables.facts.erasure import significant_pairs
from erasure_sweep.workers.tables.sweep_folder import ModelTables


class SignificantPairs(NamedTuple):
    """A model's pairs of a writer and a later head: how many were tested, and of how many erasing is significant."""

    model: str
    found: int
    tested: int


def significant(named: Sequence[tuple[str, ModelTables]]) -> list[SignificantPairs]:
    """Models in which pairs were tested."""
    counted = [(name, significant_pairs(model.tables)) for name, model in named]
    return [SignificantPairs(name, pairs.n, pairs.of) for name, pairs in counted if pairs]


def plot_significant(shown: Sequence[SignificantPairs]) -> go.Figure:
    """The share of pairs that are significant; the numbers stand above the bars."""
    shares = [one.found / one.tested for one in shown]
    bars = go.Bar(
        x=[text(one.model) for one in shown],
        y=shares,
        text=[f"{amount(one.found)} of {amount(one.tested)}" for one in shown],
        textposition="outside",
        cliponaxis=False,
        marker={"color": BLUE, "line": {"color": shade(GREY, 0.8), "width": 1}},
        hovertemplate="<b>%{x}</b><br>%{text} pairs, %{y:.2%}<extra></extra>",
    )
    return figure(
        [bars],
        x_title="model",
        y_title="share of tested pairs",
        height=380,
        bargap=0.4,
        xaxis={"type": "category", "showgrid": False, **model_ticks([one.model for one in shown])},
        yaxis={"tickformat": ".1%", "range": [0, 1.15 * max([*shares, 0.001])]},
        showlegend=False,
    )


@card(COMPARISON, "significant", order=160)
def significant_card(view: ComparisonView) -> Card:
    """Bars of the significant pairs."""
    models = view.shown
    named = list(zip(display_names(models), models, strict=True))
    shown = significant(named)
    return Card(
        "How many erasers are significant",
        "Of all pairs of a writer and a later head, those in which the head writes more than τ (0.05 by default) of "
        "the writer's output against it because it reads it, by a one-sided test over blocks of prompts, with false "
        "discoveries kept to 5 % among all pairs of a model (Benjamini and Hochberg). Bars are the share of the pairs tested."
        f"{not_measured(models, [one.model for one in shown])}{view.note}",
        {"0": plot_significant(shown)} if shown else {},
        min_width=min(1000, 90 * len(shown)),
        empty="No model has pairs that were tested: that takes two blocks of prompts or more, and a writer with later heads.",
        tables=("v_composition", "writers"),
    )
