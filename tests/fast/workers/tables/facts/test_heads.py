"""Quantiles over heads, and what the number of heads alone explains of a maximum: against counting, and against draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from erasure_sweep.workers.tables.facts.heads import (
    HeadShares,
    exceedance_p,
    exceeding,
    head_shares,
    largest_of,
    quantile_of,
    rank_sum_z,
)
from tests.support.tiers import seeds

NAN = float("nan")


def heads(shares: np.ndarray, half: np.ndarray | float = NAN) -> HeadShares:
    return HeadShares([f"L0H{at}" for at in range(len(shares))], shares, shares - half, shares + half)


class TestTheHeadsOfAModel:
    def test_heads_alone_and_only_measured_ones(self) -> None:
        writers = pd.DataFrame(
            {
                **{"writer": ["embed", "L0H0", "L0H1", "MLP0", "L1H0"], "erased": [0.9, 0.25, -0.5, 0.75, NAN]},
                **{"erased_low": 0.125, "erased_high": 0.375, "erased_centred": [0.5, 0.75, NAN, 0.25, NAN]},
            }
        )
        found = head_shares({"writers": writers})
        assert (found.labels, found.shares.tolist(), found.largest) == (["L0H0", "L0H1"], [0.25, -0.5], ("L0H0", 0.25))
        assert (found.low.tolist(), found.high.tolist()) == ([0.125, 0.125], [0.375, 0.375])
        centred = head_shares({"writers": writers}, centred=True)
        assert (centred.labels, centred.shares.tolist()) == (["L0H0"], [0.75])
        assert np.isnan(centred.low).all()
        assert head_shares({}).largest[0] == ""


class TestQuantiles:
    def test_the_ends_are_the_quantiles_of_the_heads_own_ends(self) -> None:
        shares, half = np.array([0.1, 0.2, 0.6, 0.3]), np.array([0.05, 0.3, 0.1, 0.1])
        assert quantile_of(heads(shares, half), 0.5) == pytest.approx((0.25, 0.125, 0.45))
        assert quantile_of(heads(shares), 0.75)[0] == pytest.approx(0.375)
        assert np.isnan(quantile_of(heads(shares), 0.75)[1:]).all()
        assert np.isnan(quantile_of(heads(np.array([])), 0.5)).all()

    def test_a_head_that_does_not_vary_is_its_own_interval(self) -> None:
        shares, half = np.array([0.0, 0.5]), np.array([NAN, 0.25])
        assert quantile_of(heads(shares, half), 0.5) == pytest.approx((0.25, 0.125, 0.375))

    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("q", [0.25, 0.5, 0.75])
    def test_95_percent_intervals_cover_what_many_prompts_would_give(self, together: bool, q: float) -> None:
        rng = np.random.default_rng(16)
        true = np.sort(rng.normal(0.2, 0.15, size=16))
        covered = 0
        for _ in range(1000):
            error = rng.normal(0, 0.05, size=1 if together else 16)
            _, low, high = quantile_of(heads(true + error, np.full(16, 1.96 * 0.05)), q)
            covered += low <= np.quantile(true, q) <= high
        assert 930 <= covered <= 970 if together else covered >= 970


class TestTheLargest:
    def test_of_fewer_heads_by_counting_every_draw(self) -> None:
        shares = np.random.default_rng(0).normal(size=9)
        for n in range(1, 10):
            largest = sorted(max(drawn) for drawn in combinations(shares, n))
            mean, low, high = largest_of(shares, n)
            assert mean == pytest.approx(np.mean(largest))
            assert low == largest[int(np.ceil(0.025 * len(largest))) - 1]
            assert high == largest[int(np.ceil(0.975 * len(largest))) - 1]
        assert largest_of(shares, 9) == pytest.approx((shares.max(),) * 3)
        assert np.isnan(largest_of(shares, 10)[0]) and np.isnan(largest_of(shares[:0], 0)[0])

    def test_of_thousands_of_heads(self) -> None:
        shares = np.linspace(0, 1, 20_000)
        assert largest_of(shares, 9)[0] == pytest.approx(0.9, abs=1e-4)

    def test_by_chance_more_heads_have_a_larger_maximum_but_not_a_larger_one_of_equally_many(self) -> None:
        rng = np.random.default_rng(1)
        few, many = rng.normal(size=(1500, 8)), rng.normal(size=(1500, 64))
        assert (many.max(1) - few.max(1)).mean() > 0.8
        assert (many.max(1) > few.max(1)).mean() == pytest.approx(64 / 72, abs=0.03)
        assert np.mean([largest_of(one, 8)[0] for one in many]) == pytest.approx(few.max(1).mean(), abs=0.05)


class TestByChance:
    def test_how_many_heads_exceed_all_others_by_counting_every_order(self) -> None:
        """Of six equally likely heads the larger model has any four."""
        every = list(combinations(range(6), 4))
        for larger in every:
            smaller = np.array([rank for rank in range(6) if rank not in larger], dtype=float)
            k = exceeding(smaller, np.array(larger, dtype=float))
            as_many = sum(
                exceeding(np.array([rank for rank in range(6) if rank not in other], float), np.array(other, float))
                >= k
                for other in every
            )
            assert exceedance_p(smaller, np.array(larger, dtype=float)) == pytest.approx(as_many / len(every))

    def test_that_the_maximum_is_larger_is_no_evidence(self) -> None:
        few, many = np.arange(8.0), np.array([*np.arange(63) / 10, 7.5])
        assert exceeding(few, many) == 1
        assert exceedance_p(few, many) == pytest.approx(64 / 72)
        assert exceeding(few, few) == 0 and exceedance_p(few, few) == 1

    @pytest.mark.parametrize("seed", seeds(3, 12))
    def test_ranks_as_scipy_has_them(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        few, many = rng.normal(size=7).round(1), rng.normal(0.3, size=20).round(1)
        p = 2 * stats.norm.sf(abs(rank_sum_z(few, many)))
        assert p == pytest.approx(stats.mannwhitneyu(many, few, method="asymptotic").pvalue)
        assert (rank_sum_z(few, many) > 0) == (stats.rankdata([*few, *many])[7:].mean() > 14)
        assert rank_sum_z(few, many) == pytest.approx(-rank_sum_z(many, few))
        assert rank_sum_z(np.zeros(3), np.zeros(4)) == 0
