"""Facts on whose attribution can be trusted, against tables made by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from erasure_sweep.workers.tables.facts.trust import WORDS, is_settled, survival_of, trust_counts, trust_of, trust_word

NAN = float("nan")


def tables(*words: str | None) -> dict[str, pd.DataFrame]:
    return {"dla_trust": pd.DataFrame({"writer": [f"L0H{index}" for index in range(len(words))], "trust": words})}


@pytest.mark.parametrize(
    ("slope", "word"),
    [(2.0, "trust"), (0.75, "trust"), (0.74, "partly cancelled"), (0.25, "partly cancelled"), (0.24, "cancelled"),
     (-0.24, "cancelled"), (-0.25, "reversed"), (-3.0, "reversed"), (NAN, None)],
)  # fmt: skip
def test_each_word_has_its_range(slope: float, word: str | None) -> None:
    assert trust_word(slope) == word


def test_a_word_is_settled_where_the_interval_holds_one() -> None:
    assert is_settled(0.8, 1.2) and is_settled(NAN, 0.1)
    assert not is_settled(0.2, 0.3)


def test_words_are_counted_in_their_order() -> None:
    counts = trust_counts(tables("trust", "cancelled", None, "trust", "partly cancelled"))
    assert list(counts.items()) == list(zip(WORDS, (2, 1, 1, 0), strict=True))
    assert trust_counts(tables("of another version", "trust")) == {
        "trust": 1, "partly cancelled": 0, "cancelled": 0, "reversed": 0, "of another version": 1,
    }  # fmt: skip
    assert trust_counts({}) == trust_counts(tables()) == {}


def test_the_word_of_each_component() -> None:
    assert trust_of(tables("trust", None, "reversed")) == {"L0H0": "trust", "L0H2": "reversed"}
    assert trust_of({}) == {}


def test_what_survives_with_its_interval() -> None:
    table = tables("trust")["dla_trust"].assign(effect_slope=[0.9], low=[0.8], high=[1.1])
    assert survival_of({"dla_trust": table}) == {"L0H0": (0.9, 0.8, 1.1)}
    assert survival_of({}) == {}
