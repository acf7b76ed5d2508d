"""A writer's erasers (Fig 3b), one by one and together, beside what chance does.

What the heads together do is set beside nulls: placebos (the writer's output turned at random) and the writer's siblings, each
with a group of its own of equal size, and another prompt's output. What position alone
explains is no null: a writer that writes the same at the same position everywhere can be erased all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.verified import group_name, medians_line, pair_name, verdict_line
from erasure_sweep.dashboards.model.verify.choices import target_control
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.medians import (
    CLEAN,
    PATCHED,
    RATIO_LIMIT,
    READ,
    Quartiles,
    RunStyle,
    beside,
    median_points,
    named_places,
    quartiles,
)
from erasure_sweep.dashboards.plots.theme import GREY, PURPLE, figure, robust_range, shade, text
from erasure_sweep.dashboards.wording import eraser_name, number
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, head_rows, rows_of, sum_row, verdict_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import numeric, strings, table_of

MOST_HEADS = 40
_SPELLED_OUT = 3
POSITION = "position"
_NULL_NAMES = {
    "placebo": "placebos",
    "siblings": "siblings",
    "shuffled": "shuffled",
    POSITION: "position alone",
}


_AT_POSITION = RunStyle("at equal position (no null)", PURPLE, "star")
_NULL_OF_CLEAN = RunStyle("null of the group as it is", CLEAN.colour, "circle-open")
_NULL_OF_READ = RunStyle("null of the part read", READ.colour, "triangle-up-open")


class GroupNull(NamedTuple):
    """One null of the group: its kind, which sibling or draw, the number that it questions, its quartiles."""

    kind: str
    direction: str
    of: str
    q25: float
    median: float
    q75: float
    beta: float


class ErasersAndNulls(NamedTuple):
    """The erasers one by one and then together, each as it is and without reading the writer, and the group's nulls.

    ``read``: what the group writes because it reads the writer. ``left_out`` counts heads that are not drawn.
    """

    target: VerifiedGroup
    labels: list[str]
    clean: Quartiles
    patched: Quartiles
    read: Quartiles
    nulls: list[GroupNull]
    left_out: int
    sentence: str


def eraser_group(model: ModelTables, target: VerifiedGroup, most: int = MOST_HEADS) -> ErasersAndNulls | None:
    """What Fig 3b shows; of more than ``most`` heads those that change most. None where nothing was measured."""
    heads, row = head_rows(model.tables, target), sum_row(model.tables, target)
    left_out = max(0, len(heads) - most)
    if left_out:
        change = np.abs(numeric(heads, "clean_median") - numeric(heads, "patched_median"))
        heads = heads.iloc[np.sort(np.argsort(-np.nan_to_num(change), kind="stable")[:most])]
    table = pd.concat([heads, row], ignore_index=True) if len(heads) else row
    clean, patched = quartiles(table, "clean"), quartiles(table, "patched")
    nulls = group_nulls(model, target)
    if not np.isfinite(np.append(clean.median, [null.median for null in nulls])).any():
        return None
    labels = [label or "" for label in strings(table, "eraser")]
    return ErasersAndNulls(
        target,
        labels,
        clean,
        patched,
        quartiles(row, "v_composed"),
        nulls,
        left_out,
        _group_sentence(model, target, nulls),
    )


def group_nulls(model: ModelTables, target: VerifiedGroup) -> list[GroupNull]:
    """The group's nulls in the order in which they are drawn, what position explains last."""
    table = rows_of(table_of(model.tables, "nulls"), target)
    values = zip(*quartiles(table), numeric(table, "beta"), strict=True)
    keys = zip(strings(table, "null"), strings(table, "direction"), strings(table, "of"), strict=True)
    found = [
        GroupNull(kind, direction or "", of, *(float(number) for number in numbers))
        for (kind, direction, of), numbers in zip(keys, values, strict=True)
        if kind in _NULL_NAMES and of is not None
    ]
    order = list(_NULL_NAMES)
    return sorted(found, key=lambda null: order.index(null.kind))


def _group_sentence(model: ModelTables, target: VerifiedGroup, nulls: Sequence[GroupNull]) -> str:
    found = verdict_of(model.tables, target)
    sentence = (
        f"{verdict_line(found)}{medians_line(found)}" if found else f"{pair_name(target)}: the group was not measured."
    )
    read = [
        _beta_words(kind, [n.beta for n in nulls if n.kind == kind and n.of == "v_composed"])
        for kind in _NULL_NAMES
        if kind != POSITION
    ]
    listed = ", ".join(words for words in read if words)
    return f"{sentence} β of the nulls of the part read, pooled: {listed}." if listed else sentence


def _beta_words(kind: str, betas: list[float]) -> str:
    """A null's β, or the ends of several."""
    finite = [beta for beta in betas if np.isfinite(beta)]
    if not finite:
        return ""
    ends = list(dict.fromkeys([number(min(finite)), number(max(finite))]))
    return f"{_NULL_NAMES[kind]} {' to '.join(ends)}"


def plot_group(shown: ErasersAndNulls) -> go.Figure:
    """Fig 3b: heads, the group, and behind a line the nulls; hollow is what chance gives, a star what position does."""
    n = len(shown.labels)
    kinds = [kind for kind in _NULL_NAMES if any(null.kind == kind for null in shown.nulls)]
    shifts = beside(n + len(kinds), 3)
    names = [eraser_name(label) for label in shown.labels]
    places = np.arange(n, dtype=np.float64)
    data = [
        median_points(places + shifts[0], names, shown.clean, CLEAN),
        median_points(places + shifts[1], names, shown.patched, PATCHED),
    ]
    if len(shown.read.median):
        data.append(median_points(places[-1:] + shifts[2], names[-1:], shown.read, READ))
    data += _null_points(shown.nulls, kinds, n)
    drawn = [shown.clean, shown.patched, shown.read]
    medians = np.concatenate([*(run.median for run in drawn), [null.median for null in shown.nulls]])
    ends = [end for null in shown.nulls for end in (null.q25, null.q75)]
    edges = np.concatenate([*(np.append(run.q25, run.q75) for run in drawn), ends])
    left_out = f" Drawn are the {n - 1} heads that change most; {shown.left_out} others are left out."
    ticks = [text(name) for name in names]
    group_tick = [f"<b>{_group_tick(shown.target)}</b>"] if n else []
    return figure(
        data,
        x_title="erasers, together (bold), and what chance gives",
        y_title=f"projection ratio onto {text(shown.target.writer)}",
        height=480,
        sentence=shown.sentence + (left_out if shown.left_out else ""),
        xaxis=named_places([*ticks[:-1], *group_tick, *(_NULL_NAMES[kind].replace(" ", "<br>") for kind in kinds)]),
        yaxis={"range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=RATIO_LIMIT)},
        shapes=_dividers(n, bool(kinds)),
        showlegend=True,
    )


def _group_tick(target: VerifiedGroup) -> str:
    """The group's name under its place: one head to a line where they are few, else how many they are."""
    heads = target.label.split("+")
    if len(heads) > _SPELLED_OUT:
        return f"all {len(heads)}<br>together"
    return text(group_name(target)).replace("+", "+<br>")


def _null_points(nulls: Sequence[GroupNull], kinds: Sequence[str], first: int) -> list[go.Scatter]:
    """A trace per number that nulls question; those of one kind stand beside each other in one place."""
    data = []
    for style, wanted in (
        (_NULL_OF_CLEAN, [null for null in nulls if null.of == "clean" and null.kind != POSITION]),
        (_NULL_OF_READ, [null for null in nulls if null.of != "clean" and null.kind != POSITION]),
        (_AT_POSITION, [null for null in nulls if null.kind == POSITION]),
    ):
        if not wanted:
            continue
        at = np.array([first + kinds.index(null.kind) for null in wanted], dtype=np.float64)
        for kind in kinds:
            own = np.array([null.kind == kind for null in wanted])
            at[own] += np.linspace(-0.32, 0.32, int(own.sum())) if own.sum() > 1 else 0.0
        at += [-0.05 if null.of == "clean" else 0.05 for null in wanted]  # two numbers of one null side by side
        values = Quartiles(*(np.array([null[field] for null in wanted]) for field in (3, 4, 5)))
        names = [f"{_NULL_NAMES[null.kind]} {null.direction}".rstrip() for null in wanted]
        data.append(median_points(at, names, values, style, [f"β {number(null.beta, 3)}" for null in wanted]))
    return data


def _dividers(n: int, has_nulls: bool) -> list[dict[str, Any]]:
    """A thin line before the group where there are heads, a dotted one before the nulls."""
    line = {"type": "line", "y0": 0, "y1": 1, "yref": "paper"}
    thin = [{**line, "x0": n - 1.5, "x1": n - 1.5, "line": {"color": shade(GREY, 0.5), "width": 1}}] if n > 1 else []
    dotted = {"color": GREY, "width": 1.5, "dash": "dot"}
    return thin + ([{**line, "x0": n - 0.5, "x1": n - 0.5, "line": dotted}] if n and has_nulls else [])


@card(MODEL, "eraser-group", VERIFIED, order=20, when=is_verified)
def group_card(view: ModelView) -> Card:
    shown = [group for target in view.offered_targets if (group := eraser_group(view.model, target))]
    widest = max((len(group.labels) for group in shown), default=0)
    return Card(
        "Its erasers, one by one and together, beside what chance gives",
        "Projection onto the writer of each eraser and of all of them together (bold): as it is, without reading the "
        "writer, and, of the group, the part that it writes because it reads the writer. Points are medians over all "
        "measured tokens, bars the quartiles (25 to 75 %). Behind the dotted line, hollow, stand the nulls: placebos, "
        "the writer's output turned at random within what the residual stream varies along, and siblings (heads of the "
        "writer's layer), each onto itself, with the heads that take out most of it, as many as the group has; and the group "
        "onto the writer's output on another prompt at a shuffled position. Where placebos are taken out as much, these heads "
        "shrink everything; where siblings are, it is not this writer alone that is erased. The star is the writer's output on "
        "another prompt at the same position. It is no null: it shows what position alone explains. The axis ends at ±4.",
        {str(index): plot_group(group) for index, group in enumerate(shown)},
        [target_control([pair_name(group.target) for group in shown])] if shown else [],
        min_width=min(1000, 40 * (widest + 5)) if shown else 0,
        empty="This run did not measure it: the table eraser_group is missing or holds none.",
        tables=("eraser_group", "nulls"),
    )
