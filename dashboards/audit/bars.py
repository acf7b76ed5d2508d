"""The bars everyone draws, with what really arrives beside each."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, BASELINES, AuditView, Row, logits
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, VERMILLION, figure, shade, text
from erasure_sweep.dashboards.wording import interval, listed
from erasure_sweep.workers.tables.facts.trust import CONSTANT, HOLDS

_ROW = 24
_MOST_NAMED = 6


def bars_figure(view: AuditView) -> go.Figure:
    """A wide pale bar for each component's DLA, a narrow one for the part that ablating it takes, a dot for what arrives."""
    names = view.shown
    rest = [name for name in view.rows if name not in names]
    rows = [view.rows[name] for name in names]
    labels = [text(view.named(name)) for name in names]
    if rest:
        labels.append(f"{len(rest)} others")
        rows.append(_together([view.rows[name] for name in rest]))
    hover = [_hover(label, row) for label, row in zip(labels, rows, strict=True)]
    shared: dict[str, Any] = {
        "y": labels,
        "orientation": "h",
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    believed = [row.word in (None, HOLDS) for row in rows]
    data = [
        go.Bar(
            x=[row.dla for row in rows],
            width=0.8,
            marker={"color": shade(GREY, 0.45)},
            name="DLA, the bar everyone draws",
            **shared,
        ),
        *(
            go.Bar(
                x=[
                    row.direct if of is ok and row.word != CONSTANT else None
                    for row, ok in zip(rows, believed, strict=True)
                ],
                width=0.42,
                marker={"color": colour, "pattern": {"shape": "" if of else "/", "size": 6, "solidity": 0.45}},
                name=name,
                **shared,
            )
            for of, colour, name in (
                (True, BLUE, "its part that ablating takes: holds"),
                (False, VERMILLION, "its part that ablating takes: do not believe it"),
            )
        ),
        _dots(labels, rows, hover),
    ]
    return figure(
        data,
        x_title=f"{text(view.question)}: contribution (logits)",
        y_title="",
        height=150 + _ROW * len(labels),
        sentence=bars_sentence(view),
        barmode="overlay",
        yaxis={"autorange": "reversed", "type": "category"},
        legend={"traceorder": "normal"},
    )


def bars_sentence(view: AuditView) -> str:
    """Which bars hold and which do not, by name."""
    words: dict[str, list[str]] = {}
    for name in view.shown:
        row = view.rows[name]
        if row.word:
            words.setdefault(row.word, []).append(name)
    n = sum(map(len, words.values()))
    parts = [f"{word}: {listed(names, _MOST_NAMED)}" for word, names in words.items()]
    unsure = sum(not view.rows[name].settled for name in view.shown if view.rows[name].word)
    said = f"Of the {n} components shown, {len(words.get(HOLDS, []))} hold. {'; '.join(parts)}."
    return f"{said} {unsure} of these words are not settled (?)." if unsure else said


def _dots(labels: list[str], rows: list[Row], hover: list[str]) -> go.Scatter:
    effects = np.array([row.effect for row in rows])
    ends = np.array([(row.effect_low, row.effect_high) for row in rows])
    return go.Scatter(
        x=effects,
        y=labels,
        mode="markers",
        name="what really arrives: the effect of ablating it",
        marker={"color": "#000000", "size": 9, "line": {"color": "#ffffff", "width": 1.5}},
        error_x={
            **{"type": "data", "symmetric": False, "array": ends[:, 1] - effects, "arrayminus": effects - ends[:, 0]},
            **{"thickness": 1.5, "width": 4, "color": "#000000"},
        },
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _together(rows: list[Row]) -> Row:
    """Small ones, summed; what ablating them together would do was not measured."""
    return Row(sum(row.dla for row in rows), *(float("nan"),) * 6, None, False)


def _hover(label: str, row: Row) -> str:
    lines = [f"<b>{label}</b>", f"DLA {logits(row.dla)}"]
    if np.isfinite(row.direct):
        lines += [
            f"left by the ablation {logits(row.kept)}, taken by it {logits(row.direct)}",
            f"arrives {logits(row.effect)} {interval(row.effect_low, row.effect_high)}".rstrip(),
        ]
    return "<br>".join(lines)


@card(AUDIT, "bars", order=10)
def bars_card(view: AuditView) -> Card:
    """The figure that answers which bars to believe."""
    figures = {"0": bars_figure(view)} if view.shown else {}
    return Card(
        "Which bars to believe",
        "The wide grey bar is direct logit attribution (DLA), what everyone draws. The narrow bar in it is the part that "
        f"goes when the component is ablated, replaced by {BASELINES[view.baseline]}; the dot is how much the logit "
        "difference really falls then. Where the dot stands at the end of the narrow bar, the bar can be believed (blue). "
        "Where it does not, later components answer: it is hatched. A component whose dot is far from zero beside a short bar "
        f"acts through others, which DLA cannot show. {_of_interval(view)}",
        figures,
    )


def _of_interval(view: AuditView) -> str:
    if view.n_prompts > 1:
        return f"Lines: 95\u00a0% intervals over {view.n_prompts} prompts. A word with ? is not settled by them."
    if view.n_donors > 1:
        return f"Lines: 95\u00a0% intervals over {view.n_donors} donors that replace the output in turn, for this one prompt."
    return "One prompt, ablated in one way, has no interval: every word has a ? (baseline resample has one)."
