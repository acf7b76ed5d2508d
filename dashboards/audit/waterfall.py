"""From a component's bar to what arrives: who takes how much of it back, or adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, AuditView
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, VERMILLION, lone_figure, text
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.tables.facts.trust import FINAL_NORM
from erasure_sweep.workers.tables.values import numeric

MOST_MEDIATORS = 8
_NAMES = {FINAL_NORM: "final norm"}


Step = tuple[str, float, str]
"""What a bar is called, how far it goes, and plotly's ``measure`` of it."""


def waterfall_figure(view: AuditView, component: str) -> go.Figure:
    """DLA, less what the ablation leaves, plus each mediator's part, is the total effect."""
    row = view.rows[component]
    rows = view.mediation[view.mediation["component"] == component]
    parts = dict(zip(rows["mediator"].astype(str), numeric(rows, "mediated").tolist(), strict=True))
    steps: list[Step] = [("DLA", row.dla, "absolute")]
    steps += [("left by the ablation", -row.kept, "relative")] if abs(row.kept) > 0 else []
    return steps_figure([*steps, *answers(parts)], row.effect, waterfall_sentence(view, component, parts))


def answers(parts: Mapping[str, float]) -> list[Step]:
    """The strongest mediators in the order of the layers, and the others summed."""
    strongest = sorted(parts, key=lambda name: -abs(parts[name]))[:MOST_MEDIATORS]
    named = [name for name in parts if name in strongest]
    steps: list[Step] = [(_NAMES.get(name, name), parts[name], "relative") for name in named]
    rest = sum(value for name, value in parts.items() if name not in named)
    return [*steps, (f"{len(parts) - len(named)} others", rest, "relative")] if len(parts) > len(named) else steps


def steps_figure(steps: Sequence[Step], effect: float, sentence: str) -> go.Figure:
    """Steps that lead to what arrives."""
    names, values, measures = zip(*steps, ("what arrives", effect, "total"), strict=True)
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
    return lone_figure([trace], x_title="", y_title="logits", height=420, sentence=sentence, showlegend=False)


def waterfall_sentence(view: AuditView, component: str, parts: dict[str, float]) -> str:
    """Who answers a component most, in words."""
    row, known = view.rows[component], view.known.get(component)
    said = f"DLA gives {component} {number(row.dla)} logits; ablating it takes {number(row.effect)}"
    against = {name: value for name, value in parts.items() if np.sign(value) == -np.sign(row.direct)}
    if against and abs(row.direct) > 0:
        name = max(against, key=lambda one: abs(against[one]))
        said += f". What answers it most is the {_NAMES[name]}" if name in _NAMES else f". {name} answers it most"
        said += f" ({number(against[name])})"
    return f"{said}. {known}." if known else f"{said}."


@card(AUDIT, "waterfall", order=20)
def waterfall_card(view: AuditView) -> Card:
    """One figure a component, chosen above."""
    names = view.offered
    start = next((at for at, name in enumerate(names) if name in view.doubtful), 0)
    return Card(
        "Who answers a component",
        "Where a component is ablated, later ones write something else. What that adds to its bar, or takes from it, is drawn "
        "in the order of the layers, the final norm last; it adds up exactly.",
        {str(at): waterfall_figure(view, name) for at, name in enumerate(names)},
        controls=[Control("Component", [view.named(name) for name in names], chosen=start)] if names else (),
        empty="No component has an effect here.",
    )
