"""Rank correlations without each group of tokens, beside scipy's of what is left."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from erasure_sweep.workers.measures.statistics.jackknife import FISHER, interval
from erasure_sweep.workers.measures.statistics.rank_correlation import GroupedRanks, rank_correlations

EVERY = np.arange(3)


@pytest.mark.parametrize("decimals", [9, 0])  # hardly any equal values, and many
def test_they_are_scipys(decimals: int) -> None:
    generator = np.random.default_rng(decimals)
    x = np.round(generator.standard_t(3, size=(80, 3)), decimals)
    y = np.round(x * [-1.0, 0.3, 0.0] + generator.normal(size=(80, 3)), decimals)
    group = generator.integers(0, 7, 80)
    found = rank_correlations(GroupedRanks(x, group), GroupedRanks(y, group), 7, EVERY, EVERY)
    for column in EVERY:
        whole = stats.spearmanr(x[:, column], y[:, column]).statistic
        kept = [group != each for each in range(7)]
        left_out = np.array([stats.spearmanr(x[rest, column], y[rest, column]).statistic for rest in kept])
        expected = (whole, *interval(np.array(whole), left_out, FISHER))
        assert [float(of[column]) for of in found] == pytest.approx([float(each) for each in expected], rel=1e-10)


def test_rows_say_which_columns_they_are_about() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3))
    ranks = GroupedRanks(values, np.arange(20) % 4)
    found = rank_correlations(ranks, ranks, 4, np.array([0, 2]), np.array([1, 2]))
    assert found.value == pytest.approx([stats.spearmanr(values[:, 0], values[:, 1]).statistic, 1.0])
    assert np.isnan([found.low[1], found.high[1]]).all()  # the same without every group


def test_what_has_no_rank_correlation_has_none() -> None:
    values = np.ones((6, 1))
    single = np.zeros(1, dtype=int)
    for n in (6, 1, 0):
        constant = GroupedRanks(values[:n], np.arange(n))
        assert np.isnan(np.array(rank_correlations(constant, constant, n, single, single))).all()
    varied = GroupedRanks(np.arange(6.0)[:, None], np.zeros(6, dtype=int))
    found = rank_correlations(varied, varied, 1, single, single)
    assert found.value == pytest.approx([1.0]) and np.isnan([*found.low, *found.high]).all()
