"""Targets of verify: the user's word, then what clears its null: erased writers, significant pairs, broad erasers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.verify.targets import NOTHING, choose_targets
from erasure_sweep.workers.records import Group, Target
from erasure_sweep.workers.tables.values import Tables
from tests.support.fakes.erasers import erasers_table

LAYOUT = Layout(3, 2)
LATER = ("L1H0", "L1H1", "L2H0", "L2H1")
SHARES = {
    "embed": {"L0H0": 0.0, "L1H1": -0.2},
    "L0H0": {"L1H0": 0.02, "L1H1": 0.5, "L2H0": 0.2, "L2H1": -0.3},
    "L0H1": {"L2H1": 0.4, "L1H0": -0.9},
    "MLP0": {"L1H0": 0.3},
    "L1H0": {"L2H0": 0.08},
}


def tables(erased: dict[str, float], pairs: dict[tuple[str, str], float] | None = None, **broad: float) -> Tables:
    """Of a scan.

    Args:
        erased: writers of which so much is clearly erased; of the others it is not clear.
        pairs: β of the pairs that are significant.
        broad: the sum of β of broad erasers.
    """
    writers = [{"writer": w, "erased": erased.get(w, 0.0), "clearly_erased": w in erased} for w in SHARES]
    shares = [{"writer": w, "eraser": e, "share": share} for w, own in SHARES.items() for e, share in own.items()]
    tested = [{"writer": w, "eraser": e, "beta": beta, "significant": True} for (w, e), beta in (pairs or {}).items()]
    others: list[dict[str, Any]] = [
        {"writer": "embed", "eraser": "L2H1", "beta": -0.9, "significant": False},
        {"writer": "L0H1", "eraser": "L2H1", "beta": -0.3, "significant": False},
        {"writer": "MLP0", "eraser": "L2H1", "beta": -0.2, "significant": False},
        {"writer": "L0H0", "eraser": "later", "beta": -3.0, "significant": None},
    ]
    return {
        "writers": pd.DataFrame(writers),
        "v_composition": pd.DataFrame([*tested, *others]),
        "erasure_shares": pd.DataFrame(shares),
        "erasers": erasers_table(L1H0=(0, 0.0, False), **{head: (4, total, True) for head, total in broad.items()}),
    }


def chosen(of: Tables, top: int = 9, **named: Any) -> tuple[Target, ...]:
    return choose_targets(LAYOUT, of, named.get("groups", ()), named.get("writers", []), top).targets


L0H0 = Target("L0H0", ("L1H1", "L2H0"), "rule")
MLP0 = Target("MLP0", ("L1H0",), "rule")
L0H1 = Target("L0H1", ("L2H1",), "rule")


class TestFamilies:
    def test_the_most_erased_with_the_rules_group_embeddings_last(self) -> None:
        """90 % of the positive shares: 0.7 of 0.72, whatever is added."""
        found = choose_targets(LAYOUT, tables({"embed": 0.9, "L0H0": 0.42, "MLP0": 0.3}), (), [], 2)
        assert found.targets == (L0H0, MLP0)
        assert [target.label for target in found.targets] == ["L1H1+L2H0", "L1H0"]
        assert found.reason == "L0H0 (most erased), MLP0 (most erased)"

    def test_of_an_amplified_writer_the_strong_pair(self) -> None:
        found = choose_targets(LAYOUT, tables({}, {("MLP0", "L1H0"): -0.2, ("L0H1", "L2H1"): -0.5}), (), [], 1)
        assert found.targets == (L0H1,)
        assert found.reason == "L0H1 (strong pair with L2H1)"

    def test_a_pairs_eraser_that_the_rule_leaves_out_is_a_group_by_itself(self) -> None:
        pairs = {("L0H0", "L1H0"): -0.1, ("L0H0", "L2H1"): -0.09, ("embed", "L1H1"): -0.3}
        assert chosen(tables({}, pairs), 1) == (L0H0, Target("L0H0", ("L1H0",), "pair"))
        assert chosen(tables({}, pairs))[2:] == (Target("embed", ("L1H1",), "pair"),)

    def test_of_a_broad_eraser_the_head_that_it_takes_most_out_of(self) -> None:
        found = choose_targets(LAYOUT, tables({}, L2H1=-0.9), (), [], 3)
        assert found.targets == (L0H1,)
        assert found.reason == "L0H1 (broad eraser L2H1)"

    def test_writers_stand_once_and_with_every_reason(self) -> None:
        of = tables({"L0H0": 0.4, "L0H1": 0.2}, {("L0H1", "L2H1"): -0.5, ("MLP0", "L1H0"): -0.2}, L2H1=-0.9)
        found = choose_targets(LAYOUT, of, (), [], 2)
        assert found.targets == (L0H0, L0H1, MLP0)
        assert "L0H1 (most erased, strong pair with L2H1, broad eraser L2H1)" in found.reason

    def test_each_family_up_to_top(self) -> None:
        of = tables({"L0H0": 0.4, "L0H1": 0.2}, {("MLP0", "L1H0"): -0.2, ("L1H0", "L2H0"): -0.1}, L2H1=-0.9)
        assert [target.writer for target in chosen(of, 1)] == ["L0H0", "MLP0", "L0H1"]

    @pytest.mark.parametrize("of", [tables({}), {}])
    def test_where_nothing_clears_its_null_nothing(self, of: Tables) -> None:
        assert choose_targets(LAYOUT, of, (), [], 3) == ((), NOTHING)


class TestNamed:
    def test_named_writers_alone_in_their_order(self) -> None:
        of = tables({"MLP0": 0.3}, {("L1H0", "L2H0"): -0.2})
        found = choose_targets(LAYOUT, of, (), ["embed", "L0H0"], 1)
        assert found.targets == (Target("embed", ("L0H0", "L0H1", *LATER), "all"), L0H0)
        assert found.targets[0].label == "later"
        assert found.reason == "embed (named), L0H0 (named)"

    @pytest.mark.parametrize(
        ("erasers", "expected"),
        [
            (("L2H1", "L1H0"), (Target("L0H0", ("L1H0", "L2H1"), "named"), L0H0)),
            (("L2H0", "L1H1"), (Target("L0H0", ("L1H1", "L2H0"), "named"),)),
        ],
    )
    def test_a_named_group_goes_before_the_rules(self, erasers: tuple[str, ...], expected: tuple[Target, ...]) -> None:
        assert chosen(tables({}), groups=(Group("L0H0", erasers),), writers=["L0H0"]) == expected
