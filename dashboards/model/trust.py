"""Whose direct logit attribution (DLA) to trust: the table that opens a model's page.

A component's DLA says what its output does to the difference of the two most likely next tokens if nothing later answers.
Replacing the component by its mean shows what it really does: which share of its DLA arrives, how much happens, and whether DLA
says what. One of seven words sums that up; words have symbols and colours of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable, NumberColumn
from erasure_sweep.dashboards.model.view import GLANCE, MODEL, VERIFIED, ModelView
from erasure_sweep.dashboards.wording import amount, interval, listed
from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.facts.trust import (
    AMPLIFIED,
    CANCELLED,
    CONSTANT,
    DEFAULT,
    HOLDS,
    PARTLY,
    REVERSED,
    UNRELATED,
    thresholds_of,
    trust_counts,
    unsettled_of,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import numeric, strings, table_of

UNKNOWN = "not measured"
_MOST_NAMED = 4
_CLASSES = {
    **{HOLDS: "trusted", AMPLIFIED: "amplified", PARTLY: "partly", CANCELLED: "cancelled"},
    **{REVERSED: "reversed", UNRELATED: "unrelated", CONSTANT: "constant"},
}
_UNSETTLED = "not settled: other words are within its intervals, or another prompt's rotated output gives another"
_NUMBERS = (
    NumberColumn("share", "share that arrives", "Σ d·e / Σ d²: of what its DLA says, how much the logits show"),
    NumberColumn("r", "r", "how well DLA says what happens, token by token: Σ d·e / √(Σ d² Σ e²)"),
    NumberColumn("size", "size", "how much happens beside what DLA says: √(Σ e² / Σ d²)"),
    NumberColumn("concordance", "concordance", "2 Σ d·e / (Σ d² + Σ e²), 1 only where DLA is the effect"),
    NumberColumn("constant", "constant", "share of its DLA's power that its mean has as well"),
    NumberColumn("rotated_share", "share, rotated", "the share where another prompt's rotated output replaces it"),
    NumberColumn("dla_mean_abs", "mean |DLA|", "mean size of its DLA, in logits"),
    NumberColumn("effect_mean_abs", "mean |effect|", "mean size of the change of the logit difference"),
)


def ranges(limits: TrustThresholds = DEFAULT) -> str:
    """What each word says, by its thresholds."""
    return (
        f"constant: less than {limits.constant:.0%} of its DLA's power varies; cancelled: the effect is smaller than "
        f"{limits.cancelled:g} of what DLA says (or {limits.faint:g}, with r² below {limits.related:g}); unrelated: r² below "
        f"{limits.related:g}; reversed: share below 0; partly cancelled: below {limits.holds:g}; holds: up to "
        f"{limits.amplified:g}; amplified: above; the first that matches"
    ).replace("%", "\u00a0%")


def word_counts(model: ModelTables) -> dict[str, int]:
    """How many components there are of each word, those of which it could not be told last; none where not measured."""
    counts = trust_counts(model.tables)
    untold = len(table_of(model.tables, "dla_trust")) - sum(counts.values())
    return {word: n for word, n in (counts | {UNKNOWN: untold}).items() if n}


def trust_line(model: ModelTables) -> str:
    """The counts in a sentence, those named whose DLA does not hold; nothing where trust was not measured."""
    counts = word_counts(model)
    unknown = counts.pop(UNKNOWN, 0)
    if not counts:
        return ""
    table = _least_first(table_of(model.tables, "dla_trust"))
    labels, words = strings(table, "writer"), strings(table, "trust")
    verdicts = [f"{amount(n)} {word}{_named(labels, words, word)}" for word, n in counts.items()]
    of_all = sum(counts.values())
    sentence = f"DLA verdicts of {amount(of_all)} component{'s' if of_all > 1 else ''}: {', '.join(verdicts)}."
    if unsettled := unsettled_of(model.tables):
        sentence += f" Not settled: {listed(unsettled, _MOST_NAMED)}."
    return f"{sentence} Of {amount(unknown)} more it could not be told." if unknown else sentence


def _named(labels: Sequence[str | None], words: Sequence[str | None], word: str) -> str:
    """The components of a word in brackets; those that can be trusted are not named."""
    names = [label or "" for label, other in zip(labels, words, strict=True) if other == word]
    if word == HOLDS or not names:
        return ""
    return f" ({', '.join(names[:_MOST_NAMED])}{', …' if len(names) > _MOST_NAMED else ''})"


def _least_first(table: pd.DataFrame) -> pd.DataFrame:
    """The table's rows, those first whose DLA is least like the effect."""
    return table.iloc[np.argsort(numeric(table, "concordance"), kind="stable")]


def badge(word: str | None, settled: bool = True) -> Markup:
    """A word of trust as a badge; a word that is not known as it is. ``?`` behind a word that is not settled."""
    doubt = bool(word) and not settled
    title = Markup(' title="{}"').format(_UNSETTLED) if doubt else ""
    kind = f" {_CLASSES[word]}" if word in _CLASSES else ""
    return Markup('<span class="badge{}"{}>{}{}</span>').format(kind, title, word or UNKNOWN, "?" if doubt else "")


def _is_shown(view: ModelView) -> bool:
    return view.was_verified or bool(word_counts(view.model))


def _place(view: ModelView) -> tuple[str, int]:
    """It opens the page; where it was not measured, it stands behind what else was verified."""
    return (GLANCE, 10) if word_counts(view.model) else (VERIFIED, 200)


@card(MODEL, "trust", _place, when=_is_shown)
def trust_table(view: ModelView) -> HtmlTable:
    """A row per component, the least trustworthy first."""
    table = _least_first(table_of(view.model.tables, "dla_trust"))
    values = {one.name: numeric(table, one.name).tolist() for one in _NUMBERS}
    ends = zip(numeric(table, "share_low"), numeric(table, "share_high"), strict=True)
    intervals = [interval(low, high) or None for low, high in ends]
    unsettled, labels = set(unsettled_of(view.model.tables)), strings(table, "writer")
    counts = [None if np.isnan(n) else int(n) for n in numeric(table, "n")]
    first, *others = _NUMBERS
    rows: list[list[Any]] = [
        [
            *(label, badge(word, label not in unsettled), values[first.name][row], intervals[row]),
            *(values[one.name][row] for one in others),
            counts[row],
        ]
        for row, (label, word) in enumerate(zip(labels, strings(table, "trust"), strict=True))
    ]
    return HtmlTable(
        "Whose DLA to trust",
        "Direct logit attribution (DLA) is a component's own share of the difference of the logits of the two most "
        "likely next tokens. It misleads where later components take back what the component wrote. So each component's "
        "output was replaced by its mean, which nothing in the text changes, and everything later computed anew: d is what DLA "
        "says that this changes, e what it changes, both summed over tokens as the headings say. "
        f"Words: {ranges(thresholds_of(view.model.tables))}. "
        "A word with ? is not settled. A share of 1 alone does not say that DLA is right: with a small r much else happens. "
        "The least trustworthy (by concordance) first; click a heading to sort otherwise. "
        "— means not measured, or no interval from a single prompt.",
        [
            HtmlColumn("component"),
            HtmlColumn("its DLA", "what replacing it by its mean says of its DLA", width="narrow"),
            first.html,
            HtmlColumn(
                "95\u00a0% interval",
                "of the share that arrives, by leaving out prompts",
                filtered=False,
                width="narrow",
            ),
            *(one.html for one in others),
            HtmlColumn("tokens", "measured tokens", True),
        ],
        rows,
        empty="This run did not measure it: the table dla_trust, which verify makes, is missing or empty.",
        filter_by="component or word",
        tables=("dla_trust",),
    )
