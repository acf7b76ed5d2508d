"""Mergeable quantiles: counts in fixed bins, so that result(A ∪ B) is the sum of result A and result B.

Bins are even in ``t = sign(x)·log(1 + |x|)`` and centred on multiples of ``BIN_WIDTH``, 89 to an octave of 1 + |x|, so
that 0 and ±1 are represented exactly and any order statistic is off by at most half a bin: 0.0039 + 0.39 % of its size.
Values beyond ±1.5e5 fall into the outermost bins. Counts are integers, so the order of merging cannot change a quantile.
(The construction of DDSketch, Masson et al. 2019, with a linear part around zero.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int, Integer
from scipy.sparse import csr_array
from torch import Tensor

from erasure_sweep.workers.measures.statistics.sketch_bins import BIN_WIDTH, HALF_BINS, N_BINS, count_bytes
from erasure_sweep.workers.records import State


def bin_centres() -> Float[np.ndarray, "n_bins"]:
    """The value that each bin stands for."""
    t = np.arange(-HALF_BINS, HALF_BINS + 1) * BIN_WIDTH
    return np.asarray(np.sign(t) * np.expm1(np.abs(t)))


def bin_indices(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Index of each value's bin, 0 … N_BINS − 1 (int32; values must be finite)."""
    t = values.abs().log1p_().mul_(1.0 / BIN_WIDTH).copysign_(values)
    return t.round_().clamp_(-HALF_BINS, HALF_BINS).to(torch.int32).add_(HALF_BINS)


def count_dtype(n_tokens: int) -> torch.dtype:
    """The integers that count a shard's tokens."""
    return torch.int16 if count_bytes(n_tokens) == 2 else torch.int32


def add_counts(
    counts: Int[Tensor, "sketch n_bins"],
    values: Float[Tensor, "sketch token"],
    valid: Int[Tensor, "token"],
) -> None:
    """Count values into their sketches, in place; tokens whose ``valid`` is 0 are left out."""
    starts = torch.arange(len(counts), device=values.device, dtype=torch.int32) * N_BINS
    flat = bin_indices(values).add_(starts[:, None]).flatten().long()
    counts.view(-1).scatter_add_(0, flat, valid.expand(values.shape).flatten())


def quantiles(counts: csr_array, qs: tuple[float, ...]) -> Float[np.ndarray, "sketch q"]:
    """Quantiles of each sketch by linear interpolation of order statistics; NaN where nothing was counted.

    Args:
        counts: [sketch, bin], bins in order and none of those kept empty.
        qs: fractions in [0, 1].
    """
    # Counts before each kept bin, over all sketches in a row: one search finds an order statistic of every sketch.
    before = np.concatenate([[0], np.cumsum(counts.data, dtype=np.int64)])
    start, end = before[counts.indptr[:-1]], before[counts.indptr[1:]]
    counted = np.flatnonzero(end > start)
    result = np.full((counts.shape[0], len(qs)), np.nan)
    first, last = start[counted, None], end[counted, None] - 1
    ranks = np.asarray(qs) * (last - first)
    lower = np.floor(ranks).astype(np.int64)
    centres = bin_centres()
    low, high = (
        centres[counts.indices[np.searchsorted(before, np.minimum(first + rank, last), side="right") - 1]]
        for rank in (lower, lower + 1)
    )
    result[counted] = low + (ranks - lower) * (high - low)
    return result


class SparseCounts:
    """Counts of many sketches as they travel and are stored: gaps between the non-zero bins, and what those hold."""

    def __init__(self, gap: npt.NDArray[Any], count: npt.NDArray[Any]) -> None:
        self.gap = gap
        self.count = count

    @classmethod
    def from_dense(cls, counts: Int[Tensor, "*sketch n_bins"]) -> SparseCounts:
        """The non-zero counts; gaps compress far better than positions."""
        flat = counts.flatten()
        position = flat.nonzero().squeeze(1)
        return cls.at(position, flat[position])

    @classmethod
    def at(cls, position: Int[Tensor, "filled"], count: Int[Tensor, "filled"]) -> SparseCounts:
        """Counts of bins given by their positions in all sketches in a row, in order."""
        gap = np.diff(position.cpu().numpy(), prepend=0)
        return cls(_narrow(gap), _narrow(count.cpu().numpy()))


class SketchCounter:
    """Counts of a shard's sketches while it is measured.

    Few tokens fill few of a sketch's thousands of bins. Then the bins of all values are kept and counted in the end, since
    clearing and searching all bins would take longer than everything else.

    Args:
        n_sketches: how many there are.
        n_tokens: of the shard, at most.
        device: where values come from.
    """

    FEW = 128

    def __init__(self, n_sketches: int, n_tokens: int, device: torch.device) -> None:
        self._few = n_tokens < self.FEW
        shape, dtype = (n_sketches, N_BINS), count_dtype(n_tokens)
        if self._few:
            shape, dtype = (n_sketches, n_tokens), torch.int16
        self._kept = torch.zeros(shape, dtype=dtype, device=device)
        self._first = self._used = 0

    def begin_prompt(self, n_tokens: int) -> None:
        """Say how many tokens the next values of each sketch are from."""
        self._first, self._used = self._used, self._used + n_tokens

    def add(self, sketches: slice, values: Float[Tensor, "sketch token"], valid: Bool[Tensor, "token"]) -> None:
        """Count a prompt's values into their sketches, once for each; tokens that are not ``valid`` are left out."""
        if self._few:
            self._kept[sketches, self._first : self._used] = bin_indices(values).add_(1).mul_(valid).to(torch.int16)
        else:
            add_counts(self._kept[sketches], values, valid.to(self._kept.dtype))

    def export(self) -> SparseCounts:
        """The counts that are not zero."""
        if not self._few:
            return SparseCounts.from_dense(self._kept)
        ordered = self._kept[:, : self._used].sort(dim=1).values.long()  # 0 where a token was left out
        sketch, token = ordered.nonzero(as_tuple=True)
        position, count = torch.unique_consecutive(sketch * N_BINS + ordered[sketch, token] - 1, return_counts=True)
        return SparseCounts.at(position, count)


def _narrow(values: Integer[np.ndarray, "value"]) -> npt.NDArray[Any]:
    """Values that are not negative, in the smallest unsigned integers that hold them all."""
    return values.astype(np.min_scalar_type(values.max(initial=0)))


def by_sketch(position: Int[np.ndarray, "filled"], count: Integer[np.ndarray, "filled"], n_sketches: int) -> csr_array:
    """Counts of bins, given by their positions in all sketches in a row, as [sketch, bin].

    They add up, and take memory and time for the filled bins alone.
    """
    edges = np.arange(n_sketches + 1) * N_BINS
    ends = np.searchsorted(position, edges)
    bins = (position - np.repeat(edges[:-1], np.diff(ends))).astype(np.int32)
    # narrow counts would overflow where they are added up
    return csr_array((count.astype(np.uint32), bins, ends), shape=(n_sketches, N_BINS))


class SketchSum:
    """Counts of shards added up.

    Args:
        n_sketches: how many each shard has.
    """

    def __init__(self, n_sketches: int) -> None:
        self._counts = csr_array((n_sketches, N_BINS), dtype=np.uint32)

    def add(self, state: State) -> None:
        """Add the counts of one shard's state."""
        position = np.cumsum(state["count_gap"], dtype=np.int64)
        self._counts = self._counts + by_sketch(position, state["count"], self._counts.shape[0])

    def export(self) -> State:
        """The sum, as ``stored_counts`` reads it."""
        return {"count": self._counts.data, "count_bin": self._counts.indices, "count_end": self._counts.indptr}


def stored_counts(state: State) -> csr_array:
    """Counts, [sketch, bin], of a state that a ``SketchSum`` exported."""
    parts = (state["count"], state["count_bin"], state["count_end"])
    return csr_array(parts, shape=(len(state["count_end"]) - 1, N_BINS))
