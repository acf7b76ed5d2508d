"""Whose direct logit attribution (DLA) to trust: the table that opens a model's page.

A component's DLA says what its output does to the difference of the two most likely next tokens if nothing later reads
it. Resampling the component shows what it really does; the slope of that effect on the direct change is the share of its
DLA that survives, and a word says which of four ranges the slope is in. Words have symbols and colours of their own.
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
from erasure_sweep.workers.tables.facts.trust import CANCELLED, PARTLY, REVERSED, TRUSTED, is_settled, trust_counts
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import numeric, strings, table_of

UNKNOWN = "not measured"
RANGES = "trust: slope at least 0.75; partly cancelled: 0.25 to 0.75; cancelled: −0.25 to 0.25; reversed: −0.25 or less"
AMPLIFIED = 1.25
"""Above this slope a component does more than its DLA says, for later ones write more of the same."""
_MOST_NAMED = 4
_CLASSES = {TRUSTED: "trusted", PARTLY: "partly", CANCELLED: "cancelled", REVERSED: "reversed"}


_NUMBERS = (
    NumberColumn(
        "effect_slope", "share that survives", "slope of the effect of resampling it on the change of its DLA"
    ),
    NumberColumn("effect_r", "r", "correlation of the same two over tokens"),
    NumberColumn(
        "effect_slope_recomputed", "final scale recomputed", "the slope with the final LayerNorm's scale recomputed"
    ),
    NumberColumn(
        "net_slope", "net slope", "slope of its net DLA on its DLA: what survives the heads that read it directly"
    ),
    NumberColumn("net_r", "net r", "correlation of its net DLA with its DLA"),
    NumberColumn("dla_mean_abs", "mean |DLA|", "mean size of its DLA, in logits"),
    NumberColumn(
        "net_mean_abs", "mean |net DLA|", "mean size of its DLA with what later heads write because they read it"
    ),
    NumberColumn(
        "effect_mean_abs", "mean |effect|", "mean size of the change of the logit difference when it is resampled"
    ),
)


def word_counts(model: ModelTables) -> dict[str, int]:
    """How many components there are of each word, those of which it could not be told last; none where not measured."""
    counts = trust_counts(model.tables)
    untold = len(table_of(model.tables, "dla_trust")) - sum(counts.values())
    return {word: n for word, n in (counts | {UNKNOWN: untold}).items() if n}


def trust_line(model: ModelTables) -> str:
    """The counts in a sentence, those named that cannot be trusted; nothing where trust was not measured."""
    counts = word_counts(model)
    unknown = counts.pop(UNKNOWN, 0)
    if not counts:
        return ""
    table = _least_first(table_of(model.tables, "dla_trust"))
    labels, words = strings(table, "writer"), strings(table, "trust")
    verdicts = [f"{amount(n)} {word}{_named(labels, words, word)}" for word, n in counts.items()]
    of_all = sum(counts.values())
    sentence = f"DLA verdicts of {amount(of_all)} component{'s' if of_all > 1 else ''}: {', '.join(verdicts)}."
    ends = zip(numeric(table, "low"), numeric(table, "high"), strict=True)
    unsettled = [
        label or "" for label, word, pair in zip(labels, words, ends, strict=True) if word and not is_settled(*pair)
    ]
    if unsettled:
        sentence += f" Not settled, for the interval spans several words: {listed(unsettled, _MOST_NAMED)}."
    return f"{sentence} Of {amount(unknown)} more it could not be told." if unknown else sentence


def _named(labels: Sequence[str | None], words: Sequence[str | None], word: str) -> str:
    """The components of a word in brackets; those that can be trusted are not named."""
    names = [label or "" for label, other in zip(labels, words, strict=True) if other == word]
    if word == TRUSTED or not names:
        return ""
    return f" ({', '.join(names[:_MOST_NAMED])}{', …' if len(names) > _MOST_NAMED else ''})"


def _least_first(table: pd.DataFrame) -> pd.DataFrame:
    """The table's rows, the smallest share that survives first."""
    return table.iloc[np.argsort(numeric(table, "effect_slope"), kind="stable")]


def badge(word: str | None, slope: float = np.nan, low: float = np.nan, high: float = np.nan) -> Markup:
    """A word of trust as a badge; a word that is not known as it is. ``?`` behind a word that is not settled."""
    about = ["amplified: it does more than its DLA says"] if word == TRUSTED and slope > AMPLIFIED else []
    mark = ""
    if word and not is_settled(low, high):
        mark = "?"
        about.append(f"its interval {interval(low, high)} spans several words")
    title = Markup(' title="{}"').format("; ".join(about)) if about else ""
    kind = f" {_CLASSES[word]}" if word in _CLASSES else ""
    return Markup('<span class="badge{}"{}>{}{}</span>').format(kind, title, word or UNKNOWN, mark)


def _is_shown(view: ModelView) -> bool:
    return view.was_verified or bool(word_counts(view.model))


def _place(view: ModelView) -> tuple[str, int]:
    """It opens the page; where it was not measured, it stands behind what else was verified."""
    return (GLANCE, 10) if word_counts(view.model) else (VERIFIED, 200)


@card(MODEL, "trust", _place, when=_is_shown)
def trust_table(view: ModelView) -> HtmlTable:
    """A row per component, the least trustworthy first."""
    table = table_of(view.model.tables, "dla_trust")
    table = _least_first(table)
    values = {one.name: numeric(table, one.name).tolist() for one in _NUMBERS}
    ends = zip(numeric(table, "low"), numeric(table, "high"), strict=True)
    intervals = [interval(low, high) or None for low, high in ends]
    slope, *others = _NUMBERS
    columns = [
        HtmlColumn("component"),
        HtmlColumn("its DLA", "what resampling it says of its DLA", width="narrow"),
        slope.html,
        HtmlColumn(
            "95\u00a0% interval",
            "of the share that survives, from drawing blocks of prompts again",
            filtered=False,
            width="narrow",
        ),
        *(one.html for one in others),
        HtmlColumn("tokens", "measured tokens", True),
    ]
    badges = [
        badge(*one)
        for one in zip(
            strings(table, "trust"),
            *(numeric(table, name).tolist() for name in ("effect_slope", "low", "high")),
            strict=True,
        )
    ]
    counts = [None if np.isnan(n) else int(n) for n in numeric(table, "n")]
    rows: list[list[Any]] = [
        [
            *(label, badges[row], values[slope.name][row], intervals[row]),
            *(values[one.name][row] for one in others),
            counts[row],
        ]
        for row, label in enumerate(strings(table, "writer"))
    ]
    return HtmlTable(
        "Whose DLA to trust",
        "Direct logit attribution (DLA) is a component's own share of the difference of the logits of the two most "
        "likely next tokens. It misleads where later components take back what the component wrote. So each component's "
        "output was replaced by its output on another prompt, at another position, and everything later computed "
        "anew: the share that survives is the slope of what that really does to the logit difference on what the DLA "
        f"says that it does ({RANGES}). A word with ? is not settled: the ends of its interval are of different words. "
        f"Above {AMPLIFIED:g} the component does more than its DLA says: it is amplified, which counts as trust. r says how "
        "well the line fits. Net DLA adds to the DLA what all later heads write because they read the component, with no "
        "rerun. The least trustworthy first; click a heading to sort otherwise. "
        "— means not measured, or no interval from a single block of prompts.",
        columns,
        rows,
        empty="This run did not measure it: the table dla_trust, which verify makes, is missing or empty.",
        filter_by="component or word",
        tables=("dla_trust",),
    )
