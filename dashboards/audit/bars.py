"""The bars everyone draws, with what really arrives beside each."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, BASELINES, AuditView, Row, logits
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, INK, VERMILLION, lone_figure, shade, text
from erasure_sweep.dashboards.wording import interval, listed
from erasure_sweep.workers.tables.facts.trust import CONSTANT, HOLDS

_ROW = 24
_MOST_NAMED = 6
_HATCHED = {"shape": "/", "size": 6, "solidity": 0.45}


def bars_figure(view: AuditView) -> go.Figure:
    """A wide pale bar for each component's DLA, a narrow one for the part that ablating it takes, a dot for what arrives.

    Below the bars stand components with next to no bar and a large effect.
    """
    labels, rows = _rows(view)
    hover = [_hover(label, row) for label, row in zip(labels, rows, strict=True)]
    shared: dict[str, Any] = {
        "y": labels,
        "orientation": "h",
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    wide = go.Bar(x=[row.dla for row in rows], width=0.8, marker={"color": shade(GREY, 0.45)}, name="DLA", **shared)
    narrow = []
    for is_believed, name, marker in (
        (True, "DLA less what the ablation leaves: it arrives", {"color": BLUE}),
        (False, "the same: do not believe it", {"color": VERMILLION, "pattern": _HATCHED}),
    ):
        taken = [
            row.direct if row.word not in (None, CONSTANT) and (row.word == HOLDS) == is_believed else None
            for row in rows
        ]
        narrow.append(go.Bar(x=taken, width=0.42, marker=marker, name=name, **shared))
    return lone_figure(
        [wide, *narrow, _dots(labels, rows, hover, view)],
        x_title=f"{text(view.question)}: contribution (logits)",
        y_title="",
        height=170 + _ROW * len(labels),
        sentence=bars_sentence(view),
        barmode="overlay",
        yaxis={"autorange": "reversed", "type": "category"},
        legend={"traceorder": "normal"},
    )


def _rows(view: AuditView) -> tuple[list[str], list[Row]]:
    """Labels and numbers, from top to bottom."""
    rest = [name for name in view.rows if name not in view.shown]
    labels = [text(view.named(name)) for name in view.long_bars]
    rows = [view.rows[name] for name in view.long_bars]
    if rest:
        labels.append(f"{len(rest)} others, summed")
        rows.append(_alone(sum(view.rows[name].dla for name in rest)))
    if view.indirect:
        labels.append("<i>short bars, large effects:</i>")
        rows.append(_alone(float("nan")))
        labels += [text(view.named(name)) for name in view.indirect]
        rows += [view.rows[name] for name in view.indirect]
    return labels, rows


def bars_sentence(view: AuditView) -> str:
    """Which bars hold and which do not, by name."""
    words: dict[str, list[str]] = {}
    for name in view.long_bars:
        row = view.rows[name]
        if row.word:
            words.setdefault(row.word, []).append(name)
    n = sum(map(len, words.values()))
    parts = [f"{word}: {listed(names, _MOST_NAMED)}" for word, names in words.items()]
    if not n:
        return "No component has a bar here that ablating changes."
    said = f"Of {n} bars, what ablating takes arrives as DLA says in {len(words.get(HOLDS, []))}. {'; '.join(parts)}."
    if view.indirect:
        said += f" With next to no bar, {listed(view.indirect, _MOST_NAMED)} act through others."
    partial = [name for name in view.long_bars if view.rows[name].word and view.rows[name].is_partial]
    if partial:
        said += f" Of {listed(partial, _MOST_NAMED)} the ablation leaves a third of the bar or more: the word is of the rest."
    unsure = sum(not view.rows[name].settled for name in view.long_bars if view.rows[name].word)
    return f"{said} Words with ? are not settled ({unsure} of {n})." if unsure else said


def _dots(labels: list[str], rows: list[Row], hover: list[str], view: AuditView) -> go.Scatter:
    effects = np.array([row.effect for row in rows])
    ends = np.array([(row.effect_low, row.effect_high) for row in rows])
    return go.Scatter(
        x=effects,
        y=labels,
        mode="markers",
        name=f"effect of ablating it: what really arrives{interval_of(view)}",
        marker={"color": INK, "size": 9, "line": {"color": "#ffffff", "width": 1.5}},
        error_x={
            **{"type": "data", "symmetric": False, "array": ends[:, 1] - effects, "arrayminus": effects - ends[:, 0]},
            **{"thickness": 1.5, "width": 4, "color": INK},
        },
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _alone(dla: float) -> Row:
    """A bar without an effect: of small ones, what ablating them together would do was not measured."""
    return Row(dla, *(float("nan"),) * 6, None, False)


def _hover(label: str, row: Row) -> str:
    lines = [f"<b>{label}</b>", f"DLA {logits(row.dla)}"]
    if np.isfinite(row.direct):
        lines += [
            f"left by the ablation {logits(row.kept)}, taken by it {logits(row.direct)}",
            f"arrives {logits(row.effect)} {interval(row.effect_low, row.effect_high)}".rstrip(),
        ]
    return "<br>".join(lines)


def interval_of(view: AuditView) -> str:
    """Of what the lines are intervals, to stand behind what they are of."""
    if view.n_prompts > 1:
        return f", 95\u00a0% interval over {view.n_prompts} prompts"
    return f", 95\u00a0% interval over {view.n_donors} donors" if view.n_donors > 1 else ""


@card(AUDIT, "bars", order=10)
def bars_card(view: AuditView) -> Card:
    """The figure that answers which bars to believe."""
    figures = {"0": bars_figure(view)} if view.shown else {}
    return Card(
        "Which bars to believe",
        "The wide grey bar is direct logit attribution (DLA), what everyone draws. The narrow bar in it is the part that "
        f"goes when the component is ablated, replaced by {BASELINES[view.baseline]}; the dot is how much the logit "
        "difference really falls then. Where the dot stands at the end of the narrow bar, the bar can be believed (blue). "
        "Where it does not, later components answer: it is hatched. Below stand components with next to no bar and a large "
        "effect: others read what they write, which DLA cannot show. Bars add up to the logit difference; dots do not, since "
        f"what one component does another may undo. {_of_interval(view)} Words are of the narrow bar, "
        "with (part) where a third of the wide one or more is left: holds where 0.75 to 1.33 of it arrives; "
        "amplified, partly cancelled, cancelled (below a quarter), reversed; unrelated where the bar does not tell prompt by "
        "prompt what happens; constant where no prompt changes it.",
        figures,
    )


def _of_interval(view: AuditView) -> str:
    if interval_of(view):
        return "A word with ? is not settled: its interval leaves another."
    return "One prompt, ablated in one way, has no interval: every word has a ? (baseline resample has one)."
