"""Models side by side in what verify adds: whose DLA can be trusted, and how many erasers are significant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.trust import RANGES, plot_trust, trust_bars
from erasure_sweep.dashboards.model.writers_table import first_of
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, figure, model_ticks, shade, text
from erasure_sweep.dashboards.wording import amount
from erasure_sweep.workers.tables.facts.erasure import significant_pairs


class Significant(NamedTuple):
    """A model's pairs of a writer and a later head: how many were tested, and of how many erasing is significant."""

    model: str
    found: int
    tested: int


def significant(named: Sequence[tuple[str, ModelTables]]) -> list[Significant]:
    """Models in which pairs were tested."""
    counted = [(name, significant_pairs(model.tables)) for name, model in named]
    return [Significant(name, pairs.n, pairs.of) for name, pairs in counted if pairs]


def plot_significant(shown: Sequence[Significant]) -> go.Figure:
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


def trust_card(models: Sequence[ModelTables]) -> Card:
    """Bars of the words of trust, as numbers and as shares."""
    named = list(zip(display_names(models), models, strict=True))
    shown = trust_bars(named)
    figures = {str(int(as_share)): plot_trust(shown, as_share) for as_share in (False, True)} if shown.models else {}
    return Card(
        "trust",
        "How many components' DLA can be trusted",
        "Components by what happens to the effect that their direct logit attribution (DLA) claims, when they are "
        "resampled and everything later is computed anew: the share of it that survives, as a slope. "
        f"{RANGES[0].upper()}{RANGES[1:]}.{_absent(named, shown.models)}",
        figures,
        [Control("Bars", ["number of components", "share of components"])] if figures else [],
        min_width=min(1000, 90 * len(shown.models)),
        empty="This was not measured in any model: the sweep did not verify.",
        tables=("dla_trust",),
    )


def significant_card(models: Sequence[ModelTables]) -> Card:
    """Bars of the significant pairs."""
    named = list(zip(display_names(models), models, strict=True))
    shown = significant(named)
    return Card(
        "significant",
        "How many erasers are significant",
        "Of all pairs of a writer and a later head, those in which the head writes more than τ (0.05 by default) of "
        "the writer's output against it because it reads it, by a one-sided test over blocks of prompts, with false "
        "discoveries kept to 5 % among all pairs of a model (Benjamini and Hochberg). Bars are the share of the pairs tested."
        f"{_absent(named, [one.model for one in shown])}",
        {"0": plot_significant(shown)} if shown else {},
        min_width=min(1000, 90 * len(shown)),
        empty="No model has pairs that were tested: that takes two blocks of prompts or more, and a writer with later heads.",
        tables=("v_composition", "writers"),
    )


def _absent(named: Sequence[tuple[str, ModelTables]], shown: Sequence[str]) -> str:
    absent = [name for name, _ in named if name not in set(shown)]
    return f" Not measured: {first_of(absent)}." if absent else ""
