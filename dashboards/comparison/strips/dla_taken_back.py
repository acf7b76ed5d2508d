"""How much of writers' DLA later heads leave, model by model."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.strips.strip_cards import named_writers, strips_width, what_is_drawn
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.plots.writer_strips import DLA_R, DLA_SLOPE, most_points, plot_strips, strip_points
from erasure_sweep.dashboards.wording import first_of


@card(COMPARISON, "dla", order=110)
def dla_card(view: ComparisonView) -> Card:
    models = view.shown
    strips = named_writers(models)
    names, most = [name for name, _ in strips], most_points(len(strips))
    drawn = [(measure, strip_points(strips, measure, most=most)) for measure in (DLA_SLOPE, DLA_R)]
    shown = [(measure, points) for measure, points in drawn if len(points)]
    with_points = {group for _, points in shown for group in points["group"]}
    absent = [name for name in names if name not in with_points]
    left_out = f" Not measured: {first_of(absent)}." if absent else ""
    return Card(
        "How much of writers' DLA later heads leave",
        "Each point is a writer. Its direct logit attribution (DLA) is its own part of the difference of the logits of the two "
        "most likely next tokens; its net DLA is that of what later heads leave of it, as they, or heads between, read it, "
        "along all paths through attention with patterns, scales and MLPs as they were. Slope: how much of the latter there is "
        "per unit of the former; 1 leaves its DLA as it is, 0 takes all of it back, below 0 more. r: how well that line fits, "
        "from −1 to 1; where it is near 0 the slope says little. "
        f"{what_is_drawn(most, DLA_SLOPE)}{left_out}{view.note}",
        {str(at): plot_strips(points, names, measure) for at, (measure, points) in enumerate(shown)},
        [Control("Shown", [measure.name for measure, _ in shown])] if shown else [],
        min_width=strips_width(len(names)),
        empty="This was not measured in any model, or none has a writer with a later attention layer.",
        tables=("writers", "net_dla"),
    )
