"""Whose direct logit attribution (DLA) can be trusted: the rule that gives a word, and how many components have each.

Of a component that is replaced by its mean, over tokens: d is how much its DLA changes, e how much the logit difference does.

    varying = Σ d² / Σ DLA²    share = Σ d·e / Σ d²    r = Σ d·e / √(Σ d² Σ e²)    size = √(Σ e² / Σ d²)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pandas as pd

from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.values import Tables, numeric, strings, table_of

CONSTANT, CANCELLED, UNRELATED, REVERSED = "constant", "cancelled", "unrelated", "reversed"
PARTLY, HOLDS, AMPLIFIED = "partly cancelled", "holds", "amplified"
WORDS = (HOLDS, AMPLIFIED, PARTLY, CANCELLED, REVERSED, UNRELATED, CONSTANT)
"""As people are shown them, what DLA says rightly first."""
MISLEADING = (CANCELLED, REVERSED, UNRELATED)
"""Where DLA says what does not happen; a ``constant`` one says what no token changes."""
FINAL_NORM = "final_norm"
"""What ``dla_mediation`` calls the scale of the final LayerNorm; its other mediators are components."""
THRESHOLDS = "thresholds"
"""Under which key the metadata of ``dla_trust`` hold the thresholds of its words."""


class TrustNumbers(NamedTuple):
    """What a word follows from; NaN where something has no value."""

    varying: float
    share: float
    r: float
    size: float


Ends = tuple[float, float]


class TrustEnds(NamedTuple):
    """95 % intervals of the same; NaN where there is none."""

    varying: Ends
    share: Ends
    r: Ends
    size: Ends


DEFAULT = TrustThresholds()


def trust_word(numbers: TrustNumbers, limits: TrustThresholds = DEFAULT) -> str | None:
    """What is said of an attribution, the first word that matches; ``None`` where there is nothing to tell it by."""
    varying, share, r, size = numbers
    if math.isnan(varying):
        return None
    unrelated = not r * r >= limits.related
    rules = (
        (varying < limits.constant, CONSTANT),
        (size < limits.cancelled or (size < limits.faint and unrelated), CANCELLED),
        (unrelated, UNRELATED),
        (share < 0.0, REVERSED),
        (share < limits.holds, PARTLY),
        (share <= limits.amplified, HOLDS),
    )
    return next((word for matches, word in rules if matches), AMPLIFIED)


def bar_word(numbers: TrustNumbers, limits: TrustThresholds = DEFAULT) -> str | None:
    """The word of a mean bar, whose ``share`` is of means: where the bar tells what happens, that is its size as well."""
    is_related = numbers.r * numbers.r >= limits.related
    return trust_word(numbers._replace(size=abs(numbers.share)) if is_related else numbers, limits)


Rule = Callable[[TrustNumbers, TrustThresholds], str | None]
"""From numbers to a word."""


def is_settled(ends: TrustEnds, limits: TrustThresholds = DEFAULT, rule: Rule = trust_word) -> bool | None:
    """Whether the word is the same all over the intervals; ``None`` where one is missing that could decide it."""
    missing = [any(map(math.isnan, pair)) for pair in ends]
    widest = TrustEnds((0.0, math.inf), (-math.inf, math.inf), (-1.0, 1.0), (0.0, math.inf))
    bounds = TrustEnds(*(wide if gone else pair for pair, wide, gone in zip(ends, widest, missing, strict=True)))
    low, high = bounds.r
    weakest = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
    corners = product(bounds.varying, bounds.share, (weakest, max(abs(low), abs(high))), bounds.size)
    if len({rule(TrustNumbers(*corner), limits) for corner in corners}) == 1:
        return True
    return None if any(missing) else False


def thresholds_of(tables: Tables) -> TrustThresholds:
    """With which thresholds a model's words were given."""
    noted = table_of(tables, "dla_trust").attrs.get(THRESHOLDS)
    return TrustThresholds(**json.loads(noted)) if noted else DEFAULT


def trust_of(tables: Tables) -> dict[str, str]:
    """The word of each component of which it could be told."""
    table = table_of(tables, "dla_trust")
    words = zip(table["writer"].astype(str), strings(table, "trust"), strict=True)
    return {writer: word for writer, word in words if word}


def unsettled_of(tables: Tables) -> list[str]:
    """The components with a word that is not settled."""
    table = table_of(tables, "dla_trust")
    settled = table["settled"] if "settled" in table else pd.Series([None] * len(table), dtype=object)
    rows = zip(table["writer"].astype(str), strings(table, "trust"), settled, strict=True)
    return [writer for writer, word, sure in rows if word and not pd.isna(sure) and not sure]


def settled_words(tables: Tables) -> dict[str, str]:
    """The word of each component of which it is settled; without intervals it is not."""
    table = table_of(tables, "dla_trust")
    rows = zip(table["writer"].astype(str), strings(table, "trust"), strings(table, "settled"), strict=True)
    return {writer: word for writer, word, settled in rows if word and settled == "True"}


def trust_counts(tables: Tables) -> dict[str, int]:
    """How many components have each word, in the order of ``WORDS``; empty where trust was not measured."""
    if not len(table_of(tables, "dla_trust")):
        return {}
    counts = Counter(trust_of(tables).values())
    return {word: counts[word] for word in (*WORDS, *sorted(set(counts) - set(WORDS)))}


def arriving_of(tables: Tables) -> dict[str, tuple[float, float, float]]:
    """Of each component the share of its DLA that arrives at the logits, and the ends of its interval."""
    table = table_of(tables, "dla_trust")
    numbers = zip(*(numeric(table, column).tolist() for column in ("share", "share_low", "share_high")), strict=True)
    return dict(zip(table["writer"].astype(str), numbers, strict=True))
