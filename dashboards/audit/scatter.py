"""Every component: what its bar says of ablating it, and what that does."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, AuditView
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.theme import GREY, KIND_COLOURS, KIND_NAMES, KIND_SYMBOLS, lone_figure, text
from erasure_sweep.dashboards.wording import listed
from erasure_sweep.workers.labels import kind_of

MOST_NAMED = 12


def scatter_figure(view: AuditView) -> go.Figure:
    """A point for each component; on the diagonal its bar can be believed."""
    rows = {name: row for name, row in view.rows.items() if row.word}
    named = sorted(rows, key=lambda name: -max(abs(rows[name].direct), abs(rows[name].effect)))[:MOST_NAMED]
    values = np.array([[row.direct, row.effect] for row in rows.values()]).reshape(-1, 2)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    line = go.Scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": GREY, "dash": "dash", "width": 1},
        name="all of it arrives",
        hoverinfo="skip",
    )
    data = [line]
    for kind in dict.fromkeys(map(kind_of, rows)):
        of = {name: row for name, row in rows.items() if kind_of(name) == kind}
        data.append(
            go.Scatter(
                x=[row.direct for row in of.values()],
                y=[row.effect for row in of.values()],
                mode="markers+text",
                text=[text(name) if name in named else "" for name in of],
                textposition="top center",
                customdata=[text(view.named(name)) for name in of],
                hovertemplate="%{customdata}<br>DLA says %{x:.3f}, arrives %{y:.3f} logits<extra></extra>",
                marker={"color": KIND_COLOURS[kind], "symbol": KIND_SYMBOLS[kind], "size": 9},
                name=KIND_NAMES[kind],
            )
        )
    return lone_figure(
        data,
        x_title="what DLA says of ablating it (logits)",
        y_title="what ablating it takes (logits)",
        height=520,
        sentence=_sentence(view),
    )


def _sentence(view: AuditView) -> str:
    if not view.indirect:
        return "No component without a bar has a large effect."
    n = len(view.indirect)
    who = f"{n} components act" if n > 1 else "1 component acts"
    return f"{who} through others, with next to no bar: {listed(view.indirect)}."


@card(AUDIT, "scatter", order=30)
def scatter_card(view: AuditView) -> Card:
    """All components at once."""
    return Card(
        "What the bars say, and what happens",
        "On the dashed line DLA is the effect. Below it, beside it or on the other side of zero, it is not. Near the vertical "
        "axis stand components that DLA hardly shows: what they write is read by others.",
        {"0": scatter_figure(view)},
    )
