"""How much writers are opposed, model by model."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.strips.strip_cards import strip_card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.writer_strips import OPPOSED


@card(COMPARISON, "opposed", order=130)
def opposed_card(view: ComparisonView) -> Card:
    return strip_card(
        view,
        OPPOSED,
        "How much writers are opposed",
        "Each point is a writer: the sum of what later components write against it, whether they read it or not, as a "
        "share of its own output (0: nobody does; −1: as much as it wrote; below −1: more than it wrote).",
        "Without a measured writer",
        "No model has a measured writer.",
    )
