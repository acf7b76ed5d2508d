"""Facts on what is erased, against tables made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.tables.facts.erasure import (
    clearly_erased,
    erased_shares,
    erased_writers,
    erasers_of,
    half_gone,
    is_ranked,
    largest_share,
    most_erased,
    shares_of_heads,
    significant_pairs,
    strongest_first,
    top_writers,
    writers_by_rank,
    written_back,
)
from erasure_sweep.workers.tables.values import Tables
from tests.support.fakes.tables import fake_model

NAN = float("nan")


def tables(**changes: Any) -> Tables:
    """Four writers, of which one was not measured; columns that are None are left out."""
    columns = {
        "writer": ["embed", "L0H0", "L0H1", "MLP0"],
        "written": [1.0, 1.0, 0.8, NAN],
        "remaining": [0.4, 0.6, 0.1, NAN],
        "opposed": [-0.7, -0.4, -0.9, NAN],
        "erased": [0.2, NAN, 0.9, NAN],
        "erased_centred": [0.1, NAN, 0.95, NAN],
        "clearly_erased": [True, None, True, None],
        "erasers": ["L1H0", "", "L1H0+L1H1", None],
        "rank": [2.0, NAN, 1.0, NAN],
    }
    return {"writers": pd.DataFrame({name: list_ for name, list_ in (columns | changes).items() if list_ is not None})}


def writers(table: pd.DataFrame) -> list[str]:
    return table["writer"].tolist()


class TestOrder:
    def test_writers_stand_by_rank_then_by_what_opposes_them(self) -> None:
        assert writers(writers_by_rank(tables())) == ["L0H1", "embed", "L0H0", "MLP0"]
        assert top_writers(tables()) == ["L0H1", "embed", "L0H0"]
        assert top_writers(tables(), 1) == ["L0H1"]

    def test_without_ranks_the_most_opposed_is_first(self) -> None:
        unranked = tables(rank=None)
        assert top_writers(unranked) == ["L0H1", "embed", "L0H0"]
        assert is_ranked(tables()["writers"]) and not is_ranked(unranked["writers"])

    def test_one_that_writes_nothing_is_last_and_not_among_the_top(self) -> None:
        model = fake_model("four", 4, 8, seed=4, zero=("L1H3",))
        opposed = model.tables["writers"].set_index("writer")["opposed"]
        assert top_writers(model.tables) == opposed.dropna().sort_values(kind="stable").index.tolist()
        assert writers(writers_by_rank(model.tables))[-1] == "L1H3"

    def test_without_the_table_there_are_none(self) -> None:
        assert top_writers({}) == [] == writers(writers_by_rank({"writers": pd.DataFrame()}))


class TestErased:
    def test_the_most_erased_is_first_and_the_unmeasured_are_left_out(self) -> None:
        assert writers(erased_writers(tables())) == ["L0H1", "embed"]
        assert writers(erased_writers(tables(erased=[1.0, 0.1, 0.2, 0.3]), heads=True)) == ["L0H1", "L0H0"]
        assert len(erased_writers({})) == len(erased_writers(tables(erased=None))) == 0

    def test_the_order_is_that_of_the_ranks(self) -> None:
        ranked = writers_by_rank(tables())
        assert writers(erased_writers(tables())) == writers(ranked[ranked["rank"].notna()])

    def test_shares(self) -> None:
        assert erased_shares(tables()) == {"embed": 0.2, "L0H1": 0.9}
        assert erased_shares(tables(), centred=True) == {"embed": 0.1, "L0H1": 0.95}
        assert erased_shares({}) == {}

    def test_the_writer_and_the_head(self) -> None:
        assert most_erased(tables()) == {"most_erased": "L0H1", "most_erased_head": "L0H1"}
        found = most_erased(tables(erased=[1.6, 0.2, 0.1, 0.7], clearly_erased=[True] * 4))
        assert found == {"most_erased": "embed", "most_erased_head": "L0H0"}

    def test_who_is_not_clearly_erased_is_not_named(self) -> None:
        assert most_erased(tables(clearly_erased=[False, None, None, None])) == {}
        assert most_erased(tables(clearly_erased=[True, None, False, None])) == {"most_erased": "embed"}
        assert most_erased(tables(clearly_erased=None)) == most_erased({}) == {}


class TestHalf:
    def test_counts_those_that_end_with_less_than_half(self) -> None:
        assert half_gone(tables()) == (2, 3, False)
        assert half_gone(tables(remaining=[0.5, 0.5, 0.4, NAN])) == (0, 3, False)

    def test_constants_count_for_nothing_where_means_were_removed(self) -> None:
        # the constant of embed is taken out, and all that varies of it stays; of L0H0 it is the other way round
        centred = {"written_centred": [1.0, 1.0, 0.8, NAN], "remaining_centred": [1.0, 0.1, 0.7, NAN]}
        constants = {"written": [1.0, 1.0, 0.8, NAN], "remaining": [-216.0, 0.9, 0.1, NAN]}
        assert half_gone(tables(**constants)) == (2, 3, False)
        assert half_gone(tables(**constants, **centred)) == (1, 3, True)

    def test_without_means_removed_those_kept_count(self) -> None:
        assert half_gone(tables(written_centred=[NAN] * 4, remaining_centred=[NAN] * 4)) == (2, 3, False)

    def test_what_wrote_nothing_has_no_half_to_lose(self) -> None:
        assert half_gone(tables(written=[-1.0, 0.0, 1.0, 1.0], remaining=[-2.0, -1.0, 0.4, 0.6])) == (1, 2, False)
        assert half_gone({}) == half_gone(tables(written=None)) == (0, 0, False)


class TestErasers:
    def test_the_most_negative_is_first_and_one_without_a_number_at_zero(self) -> None:
        strengths = {"L1H0": -0.1, "L2H0": 0.2, "L2H1": NAN, "L3H0": -0.5}
        assert strongest_first("L1H0+L2H0+L2H1+L2H2+L3H0", strengths) == ["L3H0", "L1H0", "L2H1", "L2H2", "L2H0"]
        assert strongest_first("", strengths) == []

    def test_of_a_writer(self) -> None:
        pairs = pd.DataFrame({"writer": ["L0H1", "L0H1", "embed"], "eraser": ["L1H0", "L1H1", "L1H0"]})
        measured = {**tables(), "v_composition": pairs.assign(beta=[-0.1, -0.3, -0.9])}
        assert erasers_of(measured, "L0H1") == ["L1H1", "L1H0"]
        assert erasers_of(measured, "L0H0") == []
        assert erasers_of(measured, "MLP0") is None
        assert erasers_of(tables(), "L0H1") == ["L1H0", "L1H1"]
        assert erasers_of({}, "L0H1") is None


class TestSignificance:
    @pytest.mark.parametrize(
        ("significant", "found"),
        [([True, False, None], (1, 2)), ([False], (0, 1)), ([None, None], None), ([], None)],
    )
    def test_pairs_are_counted_that_were_tested(self, significant: list[bool | None], found: object) -> None:
        pairs = pd.DataFrame(
            {"writer": ["embed"] * len(significant), "significant": np.array(significant, dtype=object)}
        )
        assert significant_pairs({"v_composition": pairs}) == found

    def test_none_without_the_table(self) -> None:
        assert significant_pairs({}) is None


class TestClear:
    """Whatever lists erased writers lists those of which it is clear, the most erased first."""

    def test_the_most_erased_of_which_it_is_clear(self) -> None:
        assert writers(clearly_erased(tables())) == ["L0H1", "embed"]
        assert writers(clearly_erased(tables(), heads=True)) == ["L0H1"]

    def test_a_large_share_alone_is_not_enough_nor_are_listed_erasers(self) -> None:
        shares = [0.9, 0.9, 0.9, 0.02]
        assert writers(clearly_erased(tables(erased=shares, clearly_erased=[False, None, False, True]))) == ["MLP0"]

    def test_the_largest_is_told_all_the_same(self) -> None:
        assert largest_share(tables(erased=[0.001, NAN, -0.5, NAN])) == ("embed", 0.001)
        assert largest_share({}) is None

    def test_what_is_written_back(self) -> None:
        back = written_back(tables()["writers"])
        np.testing.assert_allclose(back, [0.4 - 1.0 + 0.2, NAN, 0.1 - 0.8 + 0.9, NAN], atol=1e-12)

    def test_shares_of_heads(self) -> None:
        pairs = pd.DataFrame({"writer": ["L0H1"] * 3 + ["embed"], "eraser": ["L1H0", "later", "L1H1", "L1H0"]})
        measured = {"erasure_shares": pairs.assign(share=[0.1, 0.3, NAN, 0.9])}
        assert shares_of_heads(measured, "L0H1") == {"L1H0": 0.1}
        assert shares_of_heads({}, "L0H1") == {}
