"""Means and co-moments of two sets together, against numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.workers.measures.statistics.moments import MergedSizes


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (3, 40), (40, 3)])
def test_two_sets_together_are_the_whole(n_a: int, n_b: int) -> None:
    x, y = np.random.default_rng(n_a).normal(5.0, 2.0, size=(2, n_a + n_b))
    parts = [(values[:n_a], values[n_a:]) for values in (x, y)]
    union = MergedSizes.of(n_a, n_b)
    assert union.n == n_a + n_b
    for values, (a, b) in zip((x, y), parts, strict=True):
        assert union.mean(a.mean(), b.mean()) == pytest.approx(values.mean(), rel=1e-12)
    within = [((a - a.mean()) * (b - b.mean())).sum() for a, b in zip(*parts, strict=True)]
    apart = [b.mean() - a.mean() for a, b in parts]
    whole = ((x - x.mean()) * (y - y.mean())).sum()
    assert sum(within) + union.weight * apart[0] * apart[1] == pytest.approx(whole, rel=1e-9)
