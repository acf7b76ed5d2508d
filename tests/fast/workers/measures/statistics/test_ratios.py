"""Rows of a recorder: what each is comes back as it went in, and shards merge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from erasure_sweep.workers.measures.statistics.prompt_sums import GROUPS
from erasure_sweep.workers.measures.statistics.quantile_sketch import bin_centres
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder, Ratios, merge_ratios
from erasure_sweep.workers.measures.statistics.rows import decode_rows, encode_rows
from erasure_sweep.workers.records import State


class Kind(NamedTuple):
    target: int
    label: str


ROWS = [Kind(0, "L0H1"), Kind(0, "tab\tbed"), Kind(12, "")]


def recorded(*prompts: list[Kind]) -> RatioRecorder[Kind]:
    recorder: RatioRecorder[Kind] = RatioRecorder()
    for prompt, rows in enumerate(prompts, start=1):
        for row in rows:
            product = torch.full((3,), float(prompt + row.target))
            recorder.add(row, product, torch.ones(3), torch.tensor([True, True, False]))
    return recorder


def test_rows_come_back_as_they_were() -> None:
    state = encode_rows(ROWS)
    assert {name: values.dtype.kind for name, values in state.items()} == {"row_target": "i", "row_label": "U"}
    assert decode_rows(Kind, state) == ROWS
    assert decode_rows(Kind, {}) == []


def test_shards_merge() -> None:
    states = [recorded(ROWS, ROWS).export(), recorded(ROWS).export()]
    ratios = Ratios(Kind, merge_ratios(states))
    assert ratios.rows == ROWS
    for row in ROWS:
        assert ratios.beta(row) == pytest.approx((1 + 2 + 1) / 3 + row.target)
        assert ratios.n(row) == 6
        assert ratios.quantiles(row)["median"] == pytest.approx(1 + row.target, rel=0.01)
    low, high = ratios.beta_interval(ROWS[0])
    assert low < ratios.beta(ROWS[0]) < high


def test_no_rows_are_no_state() -> None:
    assert recorded().export() == {}
    assert merge_ratios([{}, {}]) == {}
    assert Ratios(Kind, {}).rows == []


def test_a_row_that_a_prompt_lacks_or_brings_twice_is_noticed() -> None:
    for prompts in ([ROWS, ROWS[:2]], [ROWS, [*ROWS, ROWS[0]]]):
        with pytest.raises(AssertionError, match="every prompt brings every row once"):
            recorded(*prompts).export()


def many(prompts: range) -> State:
    """Prompts of 40 tokens, some without a ratio; the last two rows' medians have intervals."""
    recorder: RatioRecorder[Kind] = RatioRecorder()
    for prompt in prompts:
        drawn = torch.from_numpy(np.random.default_rng(prompt).normal(1.0, 2.0, size=(5, 40)))
        norm_sq, valid = drawn[3].abs() + 0.1, drawn[4] > -1.5
        recorder.add_rows((ROWS[0],), drawn[:1] * norm_sq, norm_sq, valid)
        recorder.add_rows(tuple(ROWS[1:]), (drawn[1:3] + prompt % 3) * norm_sq, norm_sq, valid, median_interval=True)
    return recorder.export()


def merged(n_prompts: int, size: int) -> State:
    return merge_ratios(many(range(start, min(start + size, n_prompts))) for start in range(0, n_prompts, size))


@pytest.mark.parametrize(("n_prompts", "sizes"), [(20, (8, 3, 20)), (GROUPS + 9, (500, GROUPS + 9))])
def test_no_digit_depends_on_the_shards(n_prompts: int, sizes: tuple[int, ...]) -> None:
    first, *others = (merged(n_prompts, size) for size in sizes)
    assert first["median_end"].shape == (2 * min(n_prompts, GROUPS) + 1,)
    for other in others:
        assert first.keys() == other.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_intervals_are_those_over_prompts() -> None:
    """The median's beside the formula, of values that lie on the centres of bins."""
    centres = np.random.default_rng(0).choice(bin_centres()[1400:1700], size=(9, 21))
    recorder: RatioRecorder[Kind] = RatioRecorder()
    for values in torch.from_numpy(centres):
        recorder.add_rows(
            (ROWS[0],), values[None], torch.ones(21), torch.ones(21, dtype=torch.bool), median_interval=True
        )
    ratios = Ratios(Kind, merge_ratios([recorder.export()]))
    means = centres.mean(axis=1)
    assert ratios.beta_interval(ROWS[0]) == pytest.approx(stats.t.interval(0.95, 8, means.mean(), stats.sem(means)))
    middle = np.median(centres)
    shares = (centres < middle).mean(axis=1) + 0.5 * (centres == middle).mean(axis=1)
    reach = stats.t.ppf(0.975, 8) * stats.sem(shares)
    expected = np.quantile(centres, [0.5 - reach, 0.5 + reach])
    assert ratios.median_interval(ROWS[0]) == pytest.approx(expected, rel=1e-9)


def test_intervals_need_two_prompts_and_something_that_varies() -> None:
    single, alike = merge_ratios([many(range(1))]), merge_ratios([many(range(1)), many(range(1))])
    for state in (single, alike):
        ratios = Ratios(Kind, state)
        for row in ROWS[1:]:
            assert np.isnan([*ratios.beta_interval(row), *ratios.median_interval(row)]).all()
