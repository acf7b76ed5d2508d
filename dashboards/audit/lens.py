"""How the logit difference builds up along the stream."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, AuditView
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.theme import BLUE, VERMILLION, error_bars, lone_figure, text
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.tables.values import numeric, strings


def lens_figure(view: AuditView) -> go.Figure:
    """The accumulated logit difference and the logit lens at every state."""
    table = view.states
    states = table["state"].astype(str).tolist()
    predicted = [text(repr(word)) if word else "" for word in strings(table, "predicted")]
    data = []
    for column, name, colour, dash in (
        ("accumulated", "accumulated, at the final scale", BLUE, "solid"),
        ("lens", "logit lens, each state at its own scale", VERMILLION, "dash"),
    ):
        values = numeric(table, column)
        ends = [numeric(table, f"{column}_{end}") for end in ("low", "high")]
        data.append(
            go.Scatter(
                x=states,
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colour, "dash": dash},
                error_y=error_bars(np.stack([values, *ends], axis=1).tolist()),
                customdata=predicted,
                hovertemplate="%{x}: %{y:.3f} logits<br>would predict %{customdata}<extra></extra>",
            )
        )
    return lone_figure(
        data,
        x_title="state of the residual stream",
        y_title=f"{text(view.question)} (logits)",
        height=420,
        sentence=_sentence(view),
        xaxis={"tickangle": -40},
    )


def _sentence(view: AuditView) -> str:
    accumulated = numeric(view.states, "accumulated")
    if len(accumulated) < 2:
        return ""
    at = int(np.argmax(np.abs(np.diff(accumulated)))) + 1
    step = accumulated[at] - accumulated[at - 1]
    states = view.states["state"].astype(str).tolist()
    return (
        f"The difference ends at {number(accumulated[-1])}; the largest step, {number(step)}, is from {states[at - 1]} to "
        f"{states[at]}."
    )


@card(AUDIT, "lens", order=40)
def lens_card(view: AuditView) -> Card:
    """Both curves."""
    return Card(
        "How the logit difference builds up",
        "Accumulated: the state along the logit difference at the scale of the end, so that each step is the DLA of what is "
        "added there. Logit lens: the difference if the model ended there, and on one prompt the token that it would predict.",
        {"0": lens_figure(view)} if len(view.states) else {},
    )
