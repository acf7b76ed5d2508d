"""Every way of saying how much of the erasers' direct logit attribution is the writer's, in one table."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.dla_points import EFFECTS, dla_fits
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.wording import interval


@card(MODEL, "dla-effects", VERIFIED, order=40, when=is_verified)
def dla_effects_table(view: ModelView) -> HtmlTable:
    """A row per target and effect."""
    fits = [fit for target in view.targets for fit in dla_fits(view.model, target)]
    columns = [
        HtmlColumn("writer ← erasers"),
        HtmlColumn("of the erasers' DLA", "what of it is set against the writer's"),
        HtmlColumn("r", "Pearson's correlation over tokens", True),
        HtmlColumn("r, 95\u00a0%", "interval from drawing blocks of prompts again", filtered=False, width="narrow"),
        HtmlColumn("slope", "of the erasers' DLA on the writer's: −1 is perfect erasure", True),
        HtmlColumn("slope, 95\u00a0%", "interval from drawing blocks of prompts again", filtered=False, width="narrow"),
        HtmlColumn("intercept", "in logits", True),
        HtmlColumn("Spearman", "rank correlation over the sampled tokens", True),
        HtmlColumn("tokens", "", True),
    ]
    rows = [
        [
            *(pair_name(fit.target), EFFECTS.get(fit.effect, fit.effect)),
            *(fit.r, interval(fit.low, fit.high) or None),
            *(fit.slope, interval(fit.slope_low, fit.slope_high) or None),
            *(fit.intercept, fit.spearman, fit.n),
        ]
        for fit in fits
    ]
    return HtmlTable(
        "Every way of taking the erasers' DLA",
        "How the erasers' direct logit attribution goes with the writer's, over all measured tokens. The part read keeps "
        "pattern and scale; the next three take the writer's output out of more and more of what the erasers see and "
        "compute anew what follows; the last leaves out the attention pattern and takes the logit of the token that "
        "really comes next, from position 32 on. Intervals are of 95 %, from drawing blocks of prompts again; — means "
        "that there was one block, or nothing to fit.",
        columns,
        rows,
        empty="This run did not measure it: dla_correlation holds no rows of verify.",
        filter_by="writer or effect",
        tables=("dla_correlation",),
    )
