"""Sums over each prompt: shards merge into the same digits however prompts were divided, and many prompts into groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from erasure_sweep.workers.measures.statistics.jackknife import jackknife
from erasure_sweep.workers.measures.statistics.prompt_sums import GROUPS, PromptSums, RowSums, merge_prompt_sums
from erasure_sweep.workers.records import State


class Kind(NamedTuple):
    target: int
    label: str


ROWS = (Kind(0, "L0H1"), Kind(1, ""))


def sums_of(prompt: int) -> torch.Tensor:
    """[sum, row]"""
    return torch.from_numpy(np.random.default_rng(prompt).gamma(2.0, size=(3, len(ROWS))))


def shard(prompts: range) -> State:
    recorder: PromptSums[Kind] = PromptSums()
    for prompt in prompts:
        recorder.add_rows(ROWS, sums_of(prompt))
    return recorder.export()


def merged(n_prompts: int, size: int) -> State:
    starts = range(0, n_prompts, size)
    return merge_prompt_sums(shard(range(start, min(start + size, n_prompts))) for start in starts)


@pytest.mark.parametrize("n_prompts", [30, GROUPS + 40])
def test_no_digit_depends_on_the_shards(n_prompts: int) -> None:
    states = [merged(n_prompts, size) for size in (1, 7, 16, n_prompts)]
    for other in states[1:]:
        np.testing.assert_array_equal(states[0]["prompt_sums"], other["prompt_sums"], strict=True)


def test_prompts_beyond_the_groups_are_dealt_by_their_place() -> None:
    n_prompts = 2 * GROUPS + 3
    found = RowSums(Kind, merged(n_prompts, 64))
    for row, kind in enumerate(ROWS):
        groups = found.of(kind)
        assert groups.shape == (GROUPS, 3)
        for group in (0, 2, 3, GROUPS - 1):
            expected = sum(sums_of(prompt)[:, row].numpy() for prompt in range(group, n_prompts, GROUPS))
            np.testing.assert_allclose(groups[group], expected, rtol=1e-15)


def test_rows_one_by_one_are_those_together() -> None:
    recorder: PromptSums[Kind] = PromptSums()
    for prompt in range(4):
        for row, kind in enumerate(ROWS):
            recorder.add(kind, sums_of(prompt)[:, row])
    found, expected = recorder.export(), shard(range(4))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_row_has_its_statistic_and_interval() -> None:
    sums = RowSums(Kind, merged(9, 2))
    assert sums.rows == list(ROWS)
    found = sums.estimate(ROWS[1], lambda s: s[1] / s[2])
    by_hand = np.stack([sums_of(prompt)[:, 1].numpy() for prompt in range(9)])
    assert found == pytest.approx(jackknife(by_hand, lambda s: s[1] / s[2]), rel=1e-14)
    assert found.low < found.value < found.high


def test_no_rows_are_no_state() -> None:
    empty: State = PromptSums().export()
    assert empty == {} and merge_prompt_sums([empty, empty]) == {} and RowSums(Kind, {}).rows == []
    assert merge_prompt_sums([empty, shard(range(2))])["prompt_sums"].shape == (2, 3, len(ROWS))


def test_a_row_that_a_prompt_or_a_shard_lacks_is_noticed() -> None:
    recorder: PromptSums[Kind] = PromptSums()
    for rows in (ROWS, ROWS[:1]):
        for row in rows:
            recorder.add(row, torch.ones(3))
    with pytest.raises(AssertionError, match="every prompt brings every row once"):
        recorder.export()
    other: PromptSums[Kind] = PromptSums()
    other.add_rows(ROWS[::-1], torch.ones(3, 2))
    with pytest.raises(AssertionError, match="the same rows"):
        merge_prompt_sums([shard(range(1)), other.export()])
