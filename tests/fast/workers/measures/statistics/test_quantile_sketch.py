"""Quantiles from mergeable counts, against NumPy's on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    SparseCounts,
    add_counts,
    bin_centres,
    bin_indices,
    quantiles,
)
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.tables.columns import QUANTILES

QS = tuple(QUANTILES.values())


def count(values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    counts = torch.zeros(len(values), N_BINS, dtype=torch.int32)
    kept = np.ones(values.shape[1]) if valid is None else valid
    add_counts(counts, torch.from_numpy(values), torch.from_numpy(kept.astype(np.int32)))
    return counts.numpy().astype(np.uint32)


def assert_close(found: np.ndarray, x: np.ndarray) -> None:
    """Each order statistic may be off by 0.004 + 0.4 %, so their interpolation by the same of its two ends."""
    exact, low, high = (np.quantile(x, QS, axis=-1, method=m).T for m in ("linear", "lower", "higher"))
    bound = 0.004 + 0.004 * np.maximum(np.abs(low), np.abs(high))
    assert np.all(np.abs(found - exact) <= bound), (found, exact)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60),
    st.floats(0.01, 15.0),
)
def test_quantiles_are_within_the_promised_error(values: list[float], scale: float) -> None:
    x = np.array([values]) * scale
    assert_close(quantiles(count(x), QS), x)


def test_zero_and_one_are_where_people_look() -> None:
    found = quantiles(count(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])), QS)
    assert np.all(found[0] == 0.0)
    np.testing.assert_allclose(found[1], 1.0, atol=1e-12)


def test_merging_is_exact_and_order_does_not_matter() -> None:
    x = np.random.default_rng(0).standard_cauchy((3, 4000))
    whole = count(x)
    parts = [count(part) for part in np.array_split(x, 7, axis=1)]
    assert np.array_equal(sum(parts), whole)
    assert np.array_equal(sum(reversed(parts)), whole)
    assert_close(quantiles(whole, QS), x)


def test_left_out_tokens_do_not_count() -> None:
    x = np.random.default_rng(1).normal(size=(2, 500))
    valid = np.random.default_rng(2).random(500) < 0.3
    found = quantiles(count(x, valid), QS)
    assert_close(found, x[:, valid])
    assert np.isnan(quantiles(count(x, np.zeros(500)), QS)).all()


def test_values_beyond_the_range_stay_in_the_outermost_bins() -> None:
    indices = bin_indices(torch.tensor([-1e30, 1e30, float("1e5")]))
    assert indices.tolist()[:2] == [0, N_BINS - 1]
    assert bin_centres()[indices[2]] == pytest.approx(1e5, rel=0.004)


def test_sparse_counts_give_back_the_dense_ones() -> None:
    dense = count(np.random.default_rng(3).normal(size=(5, 200)) * 10)
    sparse = SparseCounts.from_dense(torch.from_numpy(dense.astype(np.int32)))
    total = np.zeros_like(dense)
    sparse.add_to(total)
    sparse.add_to(total)
    assert np.array_equal(total, 2 * dense)
