"""Several components ablated together: what DLA says of them, and who answers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.waterfall import MOST_MEDIATORS
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, VERMILLION, figure, text
from erasure_sweep.dashboards.wording import number, with_interval
from erasure_sweep.workers.tables.facts.trust import FINAL_NORM
from erasure_sweep.workers.tables.values import numeric


def joint_figure(
    members: Sequence[str], table: pd.DataFrame, effect: tuple[float, float, float], alone: float
) -> go.Figure:
    """The members' DLA, plus what everything else does when they are gone, is the effect."""
    parts = dict(zip(table["component"].astype(str), numeric(table, "part").tolist(), strict=True))
    others = {name: value for name, value in parts.items() if name not in members}
    strongest = sorted(others, key=lambda name: -abs(others[name]))[:MOST_MEDIATORS]
    named = [name for name in others if name in strongest]
    rest = sum(value for name, value in others.items() if name not in named)
    steps = [(name, parts[name], "relative") for name in members]
    steps += [("final norm" if name == FINAL_NORM else name, others[name], "relative") for name in named]
    steps += [(f"{len(others) - len(named)} others", rest, "relative")] if len(others) > len(named) else []
    steps.append(("what arrives", effect[0], "total"))
    names, values, measures = zip(*steps, strict=True)
    trace = go.Waterfall(
        x=[text(name) for name in names],
        y=values,
        measure=measures,
        text=[number(value) for value in values],
        textposition="outside",
        increasing={"marker": {"color": BLUE}},
        decreasing={"marker": {"color": VERMILLION}},
        totals={"marker": {"color": GREY}},
        hovertemplate="%{x}: %{y:.3f} logits<extra></extra>",
        cliponaxis=False,
    )
    together = " + ".join(members)
    sentence = f"Ablating {together} together takes {with_interval(*effect)} logits; each alone {number(alone)} in sum."
    return figure([trace], x_title="", y_title="logits", height=420, sentence=sentence, showlegend=False)
