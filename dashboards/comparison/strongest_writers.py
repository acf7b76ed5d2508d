"""The strongest writers of each model in one table: what is erased of them, by whom, and what that means for their DLA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import escape

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.grids import Grid, residual_of
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable, SortedCell
from erasure_sweep.dashboards.html.sparkline import sparkline
from erasure_sweep.dashboards.model.presence import presence
from erasure_sweep.dashboards.model.trust import badge
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.wording import first_of, number, with_interval
from erasure_sweep.workers.tables.facts.erasure import erasers_of, is_ranked, top_writers, writers_by_rank
from erasure_sweep.workers.tables.facts.trust import arriving_of, trust_of, unsettled_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric

PER_MODEL = 5
_LOWEST, _HIGHEST = -1.0, 2.0
_NUMBERS = (
    (
        "erased_centred",
        "erased, means removed",
        "the share of its output that later heads take out because they read it, what is the same at every token left out",
    ),
    ("erased", "erased, means kept", "the same with means kept"),
    ("diluted", "diluted", "what growth of the stream takes from it in the eyes of a reader behind a norm"),
    (
        "written_centred",
        "written",
        "share of it in the stream where it writes, with what was there already, means removed",
    ),
    ("remaining_centred", "remaining", "share of it in the last state of the stream, means removed"),
)
_DLA = (
    (
        "net_slope",
        "left by later heads (slope)",
        "of what all attention paths leave of its DLA on its own: 1 where nothing is taken back, 0 where all is",
    ),
    ("net_r", "r of that", "correlation of the same two over tokens"),
)


class StrongWriter(NamedTuple):
    """One of the strongest writers of a model.

    Attributes:
        erasers: the heads that erase it, strongest first; None where reading was not measured.
        numbers: by column of ``writers``, NaN where it was not measured.
        trust: what replacing it by its mean says of its DLA; None where that was not measured.
        settled: whether that is the same all over its intervals.
        arrives: the share of its DLA that arrives at the logits, and the ends of its interval.
        presence: the median share of it in each state of the stream, NaN before it writes.
    """

    model: str
    writer: str
    erasers: list[str] | None
    numbers: dict[str, float]
    trust: str | None
    settled: bool
    arrives: tuple[float, float, float]
    presence: Floats


def strongest_writers(models: Sequence[ModelTables], per_model: int = PER_MODEL) -> list[StrongWriter]:
    """Of every model the writers of which most is erased, over all models the most erased first.

    Of a model in which that was not measured they are the most opposed, and stand last.
    """
    found = [
        one
        for name, model in zip(display_names(models), models, strict=True)
        for one in _strong(name, model, top_writers(model.tables, per_model))
    ]
    return sorted(found, key=_least_erased)


def _least_erased(one: StrongWriter) -> float:
    """What orders writers, the most erased first: with means removed where that was measured."""
    centred, plain = one.numbers["erased_centred"], one.numbers["erased"]
    return -float(np.nan_to_num(centred if np.isfinite(centred) else plain, nan=-np.inf))


def _strong(name: str, model: ModelTables, top: Sequence[str]) -> list[StrongWriter]:
    """The writers among ``top`` of which anything is erased; all where that was not measured."""
    table, trust, arrives = writers_by_rank(model.tables), trust_of(model.tables), arriving_of(model.tables)
    unsettled = set(unsettled_of(model.tables))
    residual = residual_of(model.tables)
    columns = {column: numeric(table, column) for column, *_ in (*_NUMBERS, *_DLA)}
    ranked = is_ranked(table)
    rows = {writer: row for row, writer in enumerate(table["writer"].astype(str))}
    return [
        StrongWriter(
            name,
            writer,
            erasers_of(model.tables, writer) if ranked else None,
            {column: float(values[rows[writer]]) for column, values in columns.items()},
            trust.get(writer),
            writer not in unsettled,
            arrives.get(writer, (np.nan, np.nan, np.nan)),
            _presence(residual, writer),
        )
        for writer in top
        if not ranked or columns["erased"][rows[writer]] > 0
    ]


def _presence(residual: Grid, writer: str) -> Floats:
    """The median projection ratio of every state onto the writer, NaN before it writes."""
    one = presence(residual, writer)
    since = len(one.states) if one.written_at is None else one.written_at
    return np.where(np.arange(len(one.states)) >= since, one.median, np.nan)


@card(COMPARISON, "strongest", order=80)
def strongest_table(view: ComparisonView) -> HtmlTable:
    """A row per writer, its name a link to it on its model's page."""
    models, homes = view.shown, view.homes
    found = strongest_writers(models)
    low, high = _reach(found)
    rows = []
    for one in found:
        home = homes.get(one.model, Home())
        erasers = None if one.erasers is None else first_of(one.erasers) or "none"
        numbers = [one.numbers[column] for column, *_ in _NUMBERS]
        rows.append(
            [
                *(link(home.at_writer(one.writer), one.writer), link(home.page, one.model)),
                *numbers[:3],
                *(_spark(one, low, high), erasers, badge(one.trust, one.settled), _share(one.arrives)),
                *(one.numbers[column] for column, *_ in _DLA),
                *numbers[3:],
            ]
        )
    numbers_of = [HtmlColumn(heading, title, True) for _, heading, title in _NUMBERS]
    return HtmlTable(
        "The strongest writers of each model",
        f"The {PER_MODEL} writers of each model of which most is erased, means kept, fewer where nothing is erased of the "
        "others, and not each beyond chance; of models in which that was not measured the most opposed. Erased is the share of "
        "its output that later heads take out because they, or heads between, read it, along all paths through attention; "
        "other components can write it back, so what remains can be more than the rest. Means removed leaves out what is the "
        "same at every token. "
        "Presence: the median share of it in the stream from where it writes to the last state, faint lines are 0 and 1. "
        "Erasers stand strongest first. Its DLA (a word with ? is not settled) and the share that arrives are from a rerun "
        "with the writer replaced by its mean, in which MLPs, patterns and all that is later answer; left by later heads is, "
        "without a rerun, what these leave because they read it, patterns and MLPs as they were: the two differ."
        f"{view.note}",
        [
            HtmlColumn("writer", width="narrow"),
            HtmlColumn("model", width="narrow"),
            *numbers_of[:3],
            HtmlColumn("presence", "median share of it in the stream, state by state; sorted by the last", True),
            HtmlColumn("erasers", "later heads that remove it at most tokens, strongest first"),
            HtmlColumn("its DLA", "what replacing it by its mean says of its DLA", width="narrow"),
            HtmlColumn("share that arrives", "of its DLA, with its 95\u00a0% interval", True),
            *(HtmlColumn(heading, title, True) for _, heading, title in _DLA),
            *numbers_of[3:],
        ],
        rows,
        empty="No model has a measured writer.",
        filter_by="writer, model, eraser or trust",
        tables=("writers", "v_composition", "residual_projection", "dla_trust"),
    )


def _reach(found: Sequence[StrongWriter]) -> tuple[float, float]:
    """The ends that all sparklines share: 0 and 1 are within, distant tails are not."""
    values = np.concatenate([np.array([0.0, 1.0]), *(one.presence for one in found)])
    values = values[np.isfinite(values)]
    return max(_LOWEST, float(values.min())), min(_HIGHEST, float(values.max()))


def _share(arrives: tuple[float, float, float]) -> SortedCell | None:
    return SortedCell(escape(with_interval(*arrives)), arrives[0]) if np.isfinite(arrives[0]) else None


def _spark(one: StrongWriter, low: float, high: float) -> SortedCell | None:
    measured = one.presence[np.isfinite(one.presence)]
    if not len(measured):
        return None
    label = f"presence of {one.writer}: median {number(measured[0])} where it writes, {number(measured[-1])} at the end"
    return SortedCell(sparkline(np.clip(one.presence, low, high), low, high, label), float(measured[-1]))
