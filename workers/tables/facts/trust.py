"""Whose direct logit attribution (DLA) can be trusted: the words for it, and how many components have each."""

from __future__ import annotations

import math
from collections import Counter

from erasure_sweep.workers.tables.values import Tables, numeric, strings, table_of

TRUST: tuple[tuple[float, str], ...] = (
    (0.75, "trust"),
    (0.25, "partly cancelled"),
    (math.nextafter(-0.25, 0.0), "cancelled"),
    (float("-inf"), "reversed"),
)
"""From which slope of the total effect on the direct one which word holds."""
WORDS = tuple(word for _, word in TRUST)
"""From the most to the least that an attribution can be trusted."""
TRUSTED, PARTLY, CANCELLED, REVERSED = WORDS


def trust_word(slope: float) -> str | None:
    """What a slope of the total effect on the direct one says of the attribution; ``None`` where there is no slope."""
    if math.isnan(slope):
        return None
    return next(word for least, word in TRUST if slope >= least)


def is_settled(low: float, high: float) -> bool:
    """Whether both ends of a slope's interval are of one word; an end that is NaN says nothing otherwise."""
    return math.isnan(low) or math.isnan(high) or trust_word(low) == trust_word(high)


def trust_of(tables: Tables) -> dict[str, str]:
    """The word of each component of which it could be told."""
    table = table_of(tables, "dla_trust")
    words = zip(table["writer"].astype(str), strings(table, "trust"), strict=True)
    return {writer: word for writer, word in words if word}


def trust_counts(tables: Tables) -> dict[str, int]:
    """How many components have each word, in the order of ``WORDS``; empty where trust was not measured."""
    if not len(table_of(tables, "dla_trust")):
        return {}
    counts = Counter(trust_of(tables).values())
    return {word: counts[word] for word in (*WORDS, *sorted(set(counts) - set(WORDS)))}


def survival_of(tables: Tables) -> dict[str, tuple[float, float, float]]:
    """Of each component the share of its DLA's effect that survives what comes later, and the ends of its interval."""
    table = table_of(tables, "dla_trust")
    numbers = zip(*(numeric(table, column).tolist() for column in ("effect_slope", "low", "high")), strict=True)
    return dict(zip(table["writer"].astype(str), numbers, strict=True))
