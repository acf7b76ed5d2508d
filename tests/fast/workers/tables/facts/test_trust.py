"""Facts on whose attribution can be trusted: the rule of the words at its borders, and tables made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.facts.trust import (
    THRESHOLDS,
    WORDS,
    TrustEnds,
    TrustNumbers,
    arriving_of,
    is_settled,
    thresholds_of,
    trust_counts,
    trust_of,
    trust_word,
    unsettled_of,
)

NAN, INF = float("nan"), float("inf")
HALF = math.sqrt(0.5)


def tables(*words: str | None) -> dict[str, pd.DataFrame]:
    return {"dla_trust": pd.DataFrame({"writer": [f"L0H{index}" for index in range(len(words))], "trust": words})}


@pytest.mark.parametrize(
    ("varying", "share", "r", "size", "word"),
    [
        (0.0099, 1.0, 1.0, 1.0, "constant"), (0.01, 1.0, 1.0, 1.0, "holds"),
        (1.0, 0.249, 1.0, 0.249, "cancelled"), (1.0, 0.25, 1.0, 0.25, "partly cancelled"),
        (1.0, 0.34, 0.7, 0.49, "cancelled"), (1.0, 0.35, 0.7, 0.5, "unrelated"), (1.0, 0.35, 0.71, 0.49, "partly cancelled"),
        (1.0, 2.1, 0.14, 15.0, "unrelated"), (1.0, 1.0, 0.1, 10.0, "unrelated"), (1.0, 0.0, 0.0, 0.1, "cancelled"),
        (1.0, -0.01, -0.8, 0.5, "reversed"), (1.0, -3.0, -1.0, 3.0, "reversed"), (1.0, -0.2, -1.0, 0.2, "cancelled"),
        (1.0, 0.749, 1.0, 0.749, "partly cancelled"), (1.0, 0.75, 1.0, 0.75, "holds"), (1.0, 1.33, 1.0, 1.33, "holds"),
        (1.0, 1.34, 1.0, 1.34, "amplified"), (1.0, 0.0, NAN, 0.0, "cancelled"), (0.0, NAN, NAN, NAN, "constant"),
        (INF, 1.0, 1.0, 1.0, "holds"), (NAN, NAN, NAN, NAN, None),
    ],
)  # fmt: skip
def test_the_first_word_that_matches(varying: float, share: float, r: float, size: float, word: str | None) -> None:
    assert trust_word(TrustNumbers(varying, share, r, size)) == word


def test_thresholds_move_the_borders() -> None:
    numbers = TrustNumbers(1.0, 0.8, 1.0, 0.8)
    assert trust_word(numbers, TrustThresholds(holds=0.81)) == "partly cancelled"
    assert trust_word(numbers, TrustThresholds(amplified=0.79)) == "amplified"
    assert trust_word(numbers, TrustThresholds(cancelled=0.81)) == "cancelled"
    assert trust_word(numbers, TrustThresholds(constant=1.01)) == "constant"
    assert trust_word(numbers, TrustThresholds(related=1.01)) == "unrelated"


@pytest.mark.parametrize(
    ("ends", "settled"),
    [
        (TrustEnds((0.5, 0.9), (0.8, 1.2), (0.9, 0.99), (0.85, 1.3)), True),
        (TrustEnds((0.5, 0.9), (0.74, 1.2), (0.9, 0.99), (0.85, 1.3)), False),
        (TrustEnds((0.5, 0.9), (0.8, 1.34), (0.9, 0.99), (0.85, 1.4)), False),
        (TrustEnds((0.5, 0.9), (0.8, 1.2), (0.7, 0.99), (0.85, 1.3)), False),
        (TrustEnds((0.009, 0.9), (0.8, 1.2), (0.9, 0.99), (0.85, 1.3)), False),
        # below both sizes it is cancelled, whatever r is
        (TrustEnds((0.5, 0.9), (-0.2, 0.2), (-0.9, 0.9), (0.1, 0.24)), True),
        # r is weak on either side of zero, strong at both ends
        (TrustEnds((0.5, 0.9), (-0.6, 0.6), (-0.9, 0.9), (0.6, 0.7)), False),
        (TrustEnds((0.5, 0.9), (-0.2, 0.2), (-0.3, 0.3), (0.2, 0.49)), True),
        (TrustEnds((0.5, 0.9), (-0.2, 0.2), (-0.3, 0.3), (0.2, 0.51)), False),
        (TrustEnds((0.001, 0.009), (0.2, 1.2), (0.1, 0.99), (0.1, 1.3)), True),
        (TrustEnds((0.001, 0.009), (NAN, NAN), (NAN, NAN), (NAN, NAN)), True),
        (TrustEnds((0.5, 0.9), (0.8, 1.2), (NAN, NAN), (0.85, 1.3)), None),
        (TrustEnds(*(4 * [(NAN, NAN)])), None),
    ],
)
def test_a_word_is_settled_where_the_intervals_hold_no_other(ends: TrustEnds, settled: bool | None) -> None:
    assert is_settled(ends) is settled


def test_words_are_counted_in_their_order() -> None:
    counts = trust_counts(tables("holds", "cancelled", None, "holds", "partly cancelled"))
    assert list(counts) == list(WORDS)
    assert {word: n for word, n in counts.items() if n} == {"holds": 2, "partly cancelled": 1, "cancelled": 1}
    other = trust_counts(tables("of another version", "holds"))
    assert {word: n for word, n in other.items() if n} == {"holds": 1, "of another version": 1}
    assert trust_counts({}) == trust_counts(tables()) == {}


def test_the_word_of_each_component_and_whose_is_not_settled() -> None:
    known = tables("holds", None, "reversed", "constant")
    assert trust_of(known) == {"L0H0": "holds", "L0H2": "reversed", "L0H3": "constant"}
    assert trust_of({}) == {}
    known["dla_trust"]["settled"] = [True, False, False, None]
    assert unsettled_of(known) == ["L0H2"]
    assert unsettled_of(tables("holds")) == unsettled_of({}) == []


def test_what_arrives_with_its_interval() -> None:
    table = tables("holds")["dla_trust"].assign(share=[0.9], share_low=[0.8], share_high=[1.1])
    assert arriving_of({"dla_trust": table}) == {"L0H0": (0.9, 0.8, 1.1)}
    assert arriving_of({}) == {}


def test_thresholds_are_those_of_the_table() -> None:
    known = tables("holds")
    assert thresholds_of(known) == thresholds_of({}) == TrustThresholds()
    known["dla_trust"].attrs[THRESHOLDS] = TrustThresholds(holds=0.5).noted
    assert thresholds_of(known) == TrustThresholds(holds=0.5)
