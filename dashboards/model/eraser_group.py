"""What a writer's erasers do when they cannot read it (Fig 3): in the stream, head by head, and beside what chance does.

In the patched run the writer's output is taken out of the erasers' value inputs and everything later is computed anew. What
the heads together do is set beside nulls, numbers of the same kind in which nothing of the writer can be read: another
prompt's output, a random direction, a placebo taken out in the writer's stead, the writer's siblings. What position alone
explains is no null: a writer that writes the same at the same position everywhere can be erased all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.model.verified import group_name, medians_line, pair_name, verdict_line
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.presence import STATE_TITLE, band
from erasure_sweep.dashboards.plots.quartile_points import (
    CLEAN,
    LIMIT,
    PATCHED,
    READ,
    Look,
    Quartiles,
    beside,
    eraser_name,
    named_places,
    points,
    quartiles,
)
from erasure_sweep.dashboards.plots.theme import GREY, PURPLE, RATIO_TITLE, figure, robust_range, shade, single, text
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import state_order, state_place
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, head_rows, rows_of, sum_row, verdict_of
from erasure_sweep.workers.tables.values import Floats, numeric, strings, table_of

MOST_HEADS = 40
_SPELLED_OUT = 3
BANDS = (("q25", "q75"), ("q12_5", "q87_5"))
"""Quantiles between which a band lies: the quartiles, and the three quarters in the middle of the published figures."""
POSITION = "position"
_NULL_NAMES = {
    "random_direction": "random direction",
    "shuffled": "shuffled",
    "placebo": "placebo",
    "siblings": "siblings",
    POSITION: "position alone",
}
_AT_POSITION = Look("at equal position (no null)", PURPLE, "star")
_NULL_OF_CLEAN = Look("null of the group as it is", CLEAN.colour, "circle-open")
_NULL_OF_READ = Look("null of the part read", READ.colour, "triangle-up-open")


class States(NamedTuple):
    """The writer's presence in every state, as it is and with the erasers patched; a band for each."""

    writer: str
    states: list[str]
    clean: Floats
    clean_band: tuple[Floats, Floats]
    patched: Floats
    patched_band: tuple[Floats, Floats]


class Null(NamedTuple):
    """One null of the group: its kind, the sibling where it has one, the number that it questions, its quartiles."""

    kind: str
    direction: str
    of: str
    q25: float
    median: float
    q75: float
    beta: float


class Group(NamedTuple):
    """The erasers one by one and then together, each as it is and without reading the writer, and the group's nulls.

    ``read``: what the group writes because it reads the writer. ``left_out`` counts heads that are not drawn.
    """

    target: VerifiedGroup
    labels: list[str]
    clean: Quartiles
    patched: Quartiles
    read: Quartiles
    nulls: list[Null]
    left_out: int
    sentence: str


def patched_states(model: ModelTables, target: VerifiedGroup, patch: str, ends: tuple[str, str]) -> States | None:
    """What Fig 3a shows; ``patch`` is ``group`` or ``layer``, ``ends`` one of ``BANDS``. None where not measured."""
    table = rows_of(table_of(model.tables, "patched_residual_projection"), target)
    if not len(table) or not {"patch", "state"} <= set(table.columns):
        return None
    table = table[table["patch"] == patch].drop_duplicates("state").set_index("state")
    states = state_order(table.index.astype(str))
    table = table.loc[states]
    runs = [[numeric(table, f"{run}_{name}") for name in ("median", *ends)] for run in ("clean", "patched")]
    if not np.isfinite(runs).any():
        return None
    (clean, *clean_band), (patched, *patched_band) = runs
    return States(
        target.writer, states, clean, (clean_band[0], clean_band[1]), patched, (patched_band[0], patched_band[1])
    )


def plot_states(shown: States) -> go.Figure:
    """Fig 3a: a line and a band for each run; where they part, the erasers have read the writer."""
    data: list[Any] = []
    for look, median, ends, dash in (
        (CLEAN, shown.clean, shown.clean_band, "solid"),
        (PATCHED, shown.patched, shown.patched_band, "dash"),
    ):
        data += band(shown.states, *ends, shade(look.colour, 0.2), look.name)
        data.append(_line(shown.states, median, ends, look, dash))
    medians = np.append(shown.clean, shown.patched)
    edges = np.concatenate([*shown.clean_band, *shown.patched_band])
    return figure(
        data,
        x_title=STATE_TITLE,
        y_title=RATIO_TITLE.replace(" (", "<br>("),
        height=440,
        sentence=_states_sentence(shown),
        xaxis={"type": "category"},
        yaxis={"range": robust_range(medians, edges, limit=LIMIT)},
        showlegend=True,
    )


def _line(states: list[str], median: Floats, ends: tuple[Floats, Floats], look: Look, dash: str) -> go.Scatter:
    return go.Scatter(
        x=states,
        y=single(median),
        customdata=single(np.stack(ends, axis=1)),
        name=look.name,
        legendgroup=look.name,
        mode="lines+markers",
        line={"color": look.colour, "dash": dash, "width": 2},
        marker={"symbol": look.symbol, "size": 7, "color": look.colour},
        hovertemplate="%{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
    )


def _states_sentence(shown: States) -> str:
    """The lowest state behind the writer, where erasure is most to be seen, and the last one."""
    apart = np.abs(shown.patched - shown.clean)
    places = [state_place(state) for state in shown.states]
    if not np.isfinite(apart).any() or None in places:
        return ""
    widest = int(np.nanargmax(apart))
    said = [
        f"{number(shown.clean[at])} at {shown.states[at]}, {number(shown.patched[at])} without reading the writer"
        for at in dict.fromkeys([widest, len(shown.states) - 1])
    ]
    return f"Median of {shown.writer} present: {'; '.join(said)}."


def eraser_group(model: ModelTables, target: VerifiedGroup, most: int = MOST_HEADS) -> Group | None:
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
    return Group(
        target,
        labels,
        clean,
        patched,
        quartiles(row, "v_composed"),
        nulls,
        left_out,
        _group_sentence(model, target, nulls),
    )


def group_nulls(model: ModelTables, target: VerifiedGroup) -> list[Null]:
    """The group's nulls in the order in which they are drawn, what position explains last."""
    table = rows_of(table_of(model.tables, "nulls"), target)
    values = zip(*quartiles(table), numeric(table, "beta"), strict=True)
    keys = zip(strings(table, "null"), strings(table, "direction"), strings(table, "of"), strict=True)
    found = [
        Null(kind, direction or "", of, *(float(number) for number in numbers))
        for (kind, direction, of), numbers in zip(keys, values, strict=True)
        if kind in _NULL_NAMES and of is not None
    ]
    order = list(_NULL_NAMES)
    return sorted(found, key=lambda null: order.index(null.kind))


def _group_sentence(model: ModelTables, target: VerifiedGroup, nulls: Sequence[Null]) -> str:
    found = verdict_of(model.tables, target)
    said = (
        f"{verdict_line(found)}{medians_line(found)}" if found else f"{pair_name(target)}: the group was not measured."
    )
    read = [
        _beta_words(kind, [n.beta for n in nulls if n.kind == kind and n.of == "v_composed"])
        for kind in _NULL_NAMES
        if kind != POSITION
    ]
    listed = ", ".join(words for words in read if words)
    return f"{said} β of the nulls of the part read, pooled: {listed}." if listed else said


def _beta_words(kind: str, betas: list[float]) -> str:
    """A null's β, or the ends of several siblings'."""
    finite = [beta for beta in betas if np.isfinite(beta)]
    if not finite:
        return ""
    ends = list(dict.fromkeys([number(min(finite)), number(max(finite))]))
    return f"{_NULL_NAMES[kind]} {' to '.join(ends)}"


def plot_group(shown: Group) -> go.Figure:
    """Fig 3b: heads, the group, and behind a line the nulls; hollow is what chance gives, a star what position does."""
    n = len(shown.labels)
    kinds = [kind for kind in _NULL_NAMES if any(null.kind == kind for null in shown.nulls)]
    shifts = beside(n + len(kinds), 3)
    names = [eraser_name(label) for label in shown.labels]
    places = np.arange(n, dtype=np.float64)
    data = [
        points(places + shifts[0], names, shown.clean, CLEAN),
        points(places + shifts[1], names, shown.patched, PATCHED),
    ]
    if len(shown.read.median):
        data.append(points(places[-1:] + shifts[2], names[-1:], shown.read, READ))
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
        yaxis={"range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=LIMIT)},
        shapes=_dividers(n, bool(kinds)),
        showlegend=True,
    )


def _group_tick(target: VerifiedGroup) -> str:
    """The group's name under its place: one head to a line where they are few, else how many they are."""
    heads = target.label.split("+")
    if len(heads) > _SPELLED_OUT:
        return f"all {len(heads)}<br>together"
    return text(group_name(target)).replace("+", "+<br>")


def _null_points(nulls: Sequence[Null], kinds: Sequence[str], first: int) -> list[go.Scatter]:
    """A trace per number that nulls question; siblings stand beside each other in one place."""
    data = []
    for look, wanted in (
        (_NULL_OF_CLEAN, [null for null in nulls if null.of == "clean" and null.kind != POSITION]),
        (_NULL_OF_READ, [null for null in nulls if null.of != "clean" and null.kind != POSITION]),
        (_AT_POSITION, [null for null in nulls if null.kind == POSITION]),
    ):
        if not wanted:
            continue
        at = np.array([first + kinds.index(null.kind) for null in wanted], dtype=np.float64)
        siblings = np.array([null.kind == "siblings" for null in wanted])
        spread = np.linspace(-0.32, 0.32, int(siblings.sum())) if siblings.sum() > 1 else np.zeros(int(siblings.sum()))
        at[siblings] += spread
        at += [-0.05 if null.of == "clean" else 0.05 for null in wanted]  # two numbers of one null side by side
        values = Quartiles(*(np.array([null[field] for null in wanted]) for field in (3, 4, 5)))
        names = [f"{_NULL_NAMES[null.kind]} {null.direction}".rstrip() for null in wanted]
        data.append(points(at, names, values, look, [f"β {number(null.beta, 3)}" for null in wanted]))
    return data


def _dividers(n: int, has_nulls: bool) -> list[dict[str, Any]]:
    """A thin line before the group where there are heads, a dotted one before the nulls."""
    line = {"type": "line", "y0": 0, "y1": 1, "yref": "paper"}
    thin = [{**line, "x0": n - 1.5, "x1": n - 1.5, "line": {"color": shade(GREY, 0.5), "width": 1}}] if n > 1 else []
    dotted = {"color": GREY, "width": 1.5, "dash": "dot"}
    return thin + ([{**line, "x0": n - 0.5, "x1": n - 0.5, "line": dotted}] if n and has_nulls else [])
