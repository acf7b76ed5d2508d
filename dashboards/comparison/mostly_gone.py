"""How many writers are mostly gone at the end, model by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model_names import display_names, family_of, is_checkpoint
from erasure_sweep.dashboards.plots.theme import PALE, figure, look_of, shade, text
from erasure_sweep.dashboards.wording import amount, first_of
from erasure_sweep.workers.tables.facts.erasure import half_gone
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_LEAST_SHARE = 0.1


class MostlyGone(NamedTuple):
    """The share of a model's writers of which less than half of what they wrote remains; NaN without any that wrote."""

    model: str
    n_layers: int | None
    n_writers: int
    share: float


def mostly_gone(models: Sequence[ModelTables]) -> list[MostlyGone]:
    """Per model, of how many of its writers more than half of what they wrote is gone at the end."""
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        half = half_gone(model.tables)
        share = half.n / half.of if half.of else float("nan")
        found.append(MostlyGone(name, model.about.n_layers, half.of, share))
    return found


def plot_removed(shown: Sequence[MostlyGone], widths: Mapping[str, int | None] | None = None) -> go.Figure:
    """Share of writers that are mostly gone at the end, against depth; colour and symbol are the family, fill the width.

    ``widths``: those of the models, by name.
    """
    members: dict[tuple[str, int | None], list[MostlyGone]] = {}
    for one in shown:
        members.setdefault((family_of(one.model), (widths or {}).get(one.model)), []).append(one)
    families = list(dict.fromkeys(family for family, _ in members))
    having = {family: [width for other, width in members if other == family] for family in families}
    data = [
        _trace(
            several,
            families.index(family),
            having[family].index(width),
            # the width where the family has several
            family if len(having[family]) == 1 else f"{family}, width {amount(width)}",
        )
        for (family, width), several in members.items()
    ]
    layers = sorted({one.n_layers for one in shown if one.n_layers is not None})
    wide = bool(layers) and layers[-1] > 8 * layers[0] > 0
    highest = max([one.share for one in shown], default=0.0)
    return figure(
        data,
        x_title="layers" + (" (logarithmic)" if wide else ""),
        y_title="share of writers",
        height=400,
        xaxis={"type": "log" if wide else "linear", "tickmode": "array", "tickvals": layers},
        yaxis={"range": [-0.03 * max(highest, _LEAST_SHARE), 1.08 * max(highest, _LEAST_SHARE)], "tickformat": ".0%"},
        showlegend=True,
    )


def _trace(members: Sequence[MostlyGone], family: int, width: int, name: str) -> go.Scatter:
    colour, symbol = look_of(family)
    return go.Scatter(
        x=[one.n_layers for one in members],
        y=[one.share for one in members],
        name=text(name),
        hovertext=[f"<b>{text(one.model)}</b><br>{one.share:.1%} of {one.n_writers} writers" for one in members],
        mode="markers",
        marker={
            "symbol": symbol,
            "color": colour if width % 2 == 0 else shade(colour, PALE),
            **{"size": 12, "line": {"width": 1.5, "color": colour}},
        },
        hovertemplate="%{hovertext}<extra></extra>",
    )


@card(COMPARISON, "removed", order=150)
def removed_card(view: ComparisonView) -> Card:
    """One figure: shares against layers."""
    models = view.shown
    final = [one for one, model in zip(mostly_gone(models), models, strict=True) if not is_checkpoint(model.about)]
    shown = [one for one in final if np.isfinite(one.share) and one.n_layers is not None]
    checkpoints = "" if len(final) == len(models) else " Checkpoints are left out."
    widths = {name: model.about.d_model for name, model in zip(display_names(models), models, strict=True)}
    counts = first_of([f"{one.model} {amount(one.n_writers)}" for one in shown])
    return Card(
        "How many writers are mostly gone at the end",
        "Share of a model's writers of which less than half of what was written remains in the last state, with what is the "
        "same at every token left out, whoever took it out and for whatever reason. Counted are "
        f"writers with a positive share written: {counts}.{checkpoints}{view.note}",
        {"0": plot_removed(shown, widths)} if shown else {},
        empty="No model has writers with written and remaining measured, checkpoints aside.",
        tables=("writers",),
    )
