"""How much of the writers is erased, model by model."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.strips.strip_cards import strip_card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.writer_strips import ERASED


@card(COMPARISON, "erased", order=70)
def erased_card(view: ComparisonView) -> Card:
    return strip_card(
        view,
        ERASED,
        "How much of the writers is erased",
        "Each point is a writer: the share of its output that later heads take out because they, or heads between, read it, "
        "along all paths through attention, pooled over tokens (1 is all of it; below 0 they add to it).",
        "Without a writer for which this was measured",
        "This was not measured in any model, or none has a writer with a later attention layer.",
    )
