"""Quantiles from mergeable counts, against NumPy's on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    SketchCounter,
    SketchSum,
    SparseCounts,
    add_counts,
    bin_centres,
    bin_indices,
    quantiles,
    stored_counts,
)
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.tables.columns import QUANTILES

QS = tuple(QUANTILES.values())


def count(values: np.ndarray, valid: np.ndarray | None = None) -> csr_array:
    counts = torch.zeros(len(values), N_BINS, dtype=torch.int32)
    kept = np.ones(values.shape[1]) if valid is None else valid
    add_counts(counts, torch.from_numpy(values), torch.from_numpy(kept.astype(np.int32)))
    return csr_array(counts.numpy().astype(np.uint32))


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
    assert (sum(parts) != whole).nnz == 0
    assert (sum(reversed(parts)) != whole).nnz == 0
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


def test_counts_of_shards_add_up_as_they_are_stored() -> None:
    shards = [count(np.random.default_rng(seed).normal(size=(5, 200)) * 10).toarray() for seed in range(3)]
    shards[1][2:4] = 0  # sketches without a count
    together = SketchSum(5)
    for shard in shards:
        sparse = SparseCounts.from_dense(torch.from_numpy(shard.astype(np.int32)))
        together.add({"count_gap": sparse.gap, "count": sparse.count})
    assert np.array_equal(stored_counts(together.export()).toarray(), sum(shards))


def test_quantiles_of_many_sketches_are_those_of_one_at_a_time() -> None:
    """All are found in one array: sketches of no count, one, or many in a bin do not reach into each other's bins."""
    x = np.random.default_rng(4).standard_cauchy((60, 40))
    counts = np.concatenate([count(row[None, : index % 5 * 10]).toarray() for index, row in enumerate(x)])
    counts[7::10] *= 3
    for found, dense in zip(quantiles(csr_array(counts), QS), counts, strict=True):
        ordered = np.repeat(bin_centres(), dense)
        ranks = np.array(QS) * (len(ordered) - 1)
        if not len(ordered):
            assert np.isnan(found).all()
            continue
        low, high = (ordered[np.minimum(np.floor(ranks).astype(int) + more, len(ordered) - 1)] for more in (0, 1))
        np.testing.assert_array_equal(found, low + (ranks - np.floor(ranks)) * (high - low))


def test_few_tokens_are_counted_as_many_are() -> None:
    draw = torch.Generator().manual_seed(6)
    counters = [SketchCounter(9, n_tokens, torch.device("cpu")) for n_tokens in (40, SketchCounter.FEW)]
    for n_tokens in (13, 20):  # fewer than there could be
        values = torch.randn(9, n_tokens, generator=draw).mul(5).round()
        valid = torch.rand(n_tokens, generator=draw) < 0.7
        for counter in counters:
            counter.begin_prompt(n_tokens)
            counter.add(slice(0, 4), values[:4], valid)
            counter.add(slice(6, 9), values[6:], valid)
    few, many = (counter.export() for counter in counters)
    assert few.gap.tolist() == many.gap.tolist() and few.count.tolist() == many.count.tolist()
    assert few.count.max() > 1 and few.gap.dtype == many.gap.dtype and few.count.dtype == many.count.dtype


def test_a_counter_of_nothing_is_empty() -> None:
    for n_tokens in (8, 1000):
        counts = SketchCounter(3, n_tokens, torch.device("cpu")).export()
        assert len(counts.gap) == len(counts.count) == 0
