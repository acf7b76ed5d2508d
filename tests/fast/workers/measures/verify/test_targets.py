"""Targets of verify: the user's word before the rule's, the rule's before all later heads."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.verify.targets import choose_targets, later_heads
from erasure_sweep.workers.records import Group, Target

LAYOUT = Layout(3, 2)
LATER = ("L1H0", "L1H1", "L2H0", "L2H1")
SCAN = {
    "writer": np.array(["embed", "L0H0", "L0H1", "MLP0", "L2H0"], dtype=object),
    "erasers": np.array(["", "L1H1+L2H0", None, "L1H0", None], dtype=object),
    "rank": np.array([3.0, 2.0, np.nan, 1.0, np.nan]),
}


def test_the_highest_ranked_with_what_the_rule_finds() -> None:
    found = choose_targets(LAYOUT, SCAN, (), [], 2)
    assert found == (Target("MLP0", ("L1H0",), "rule"), Target("L0H0", ("L1H1", "L2H0"), "rule"))
    assert [target.label for target in found] == ["L1H0", "L1H1+L2H0"]


def test_all_later_heads_where_the_rule_finds_none() -> None:
    third = choose_targets(LAYOUT, SCAN, (), [], 9)[2:]
    assert third == (Target("embed", ("L0H0", "L0H1", *LATER), "all"),)
    assert third[0].label == "later"


def test_named_writers_alone_in_their_order() -> None:
    found = choose_targets(LAYOUT, SCAN, (), ["L0H1", "L0H0"], 1)
    assert found == (Target("L0H1", LATER, "all"), Target("L0H0", ("L1H1", "L2H0"), "rule"))


@pytest.mark.parametrize(
    ("erasers", "expected"),
    [
        (("L2H1", "L1H0"), (Target("L0H0", ("L1H0", "L2H1"), "named"), Target("L0H0", ("L1H1", "L2H0"), "rule"))),
        (("L2H0", "L1H1"), (Target("L0H0", ("L1H1", "L2H0"), "named"),)),
    ],
)
def test_a_named_group_goes_before_the_rules(erasers: tuple[str, ...], expected: tuple[Target, ...]) -> None:
    assert choose_targets(LAYOUT, SCAN, (Group("L0H0", erasers),), ["L0H0"], 1) == expected


def test_without_a_scan_the_named_groups_alone() -> None:
    named = (Group("L0H0", ("L1H0",)), Group("L0H1", ("L1H0",)))
    expected = tuple(Target(group.writer, ("L1H0",), "named") for group in named)
    assert choose_targets(LAYOUT, None, named, ["L0H0", "L0H1"], 3) == expected
    assert choose_targets(LAYOUT, None, (), [], 3) == ()


def test_later_heads() -> None:
    assert later_heads(LAYOUT, "MLP0") == LATER == later_heads(LAYOUT, "L0H1")
    assert later_heads(LAYOUT, "MLP1") == ("L2H0", "L2H1")
    assert later_heads(LAYOUT, "L2H0") == ()
