"""Ratios of many kinds, row by row: sketches for quantiles, sums of each prompt for pooled coefficients and their intervals.

A row is one ratio a·b / |b|² per token, such as the presence of a writer in a state under a patch; a measure says what its rows
are by a named tuple of its own. A shard keeps of each row counts in bins (``quantile_sketch``) and, of each prompt, Σ a·b and
Σ |b|². Intervals of pooled coefficients come from leaving out one prompt at a time (``jackknife``).

A median is no smooth function of sums, and its interval follows from that of the share of tokens below it (Woodruff 1952): the
share's jackknife interval about a half says which quantiles are the ends. That takes a sketch of each prompt, which is kept of
the rows that ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from erasure_sweep.workers.measures.statistics.jackknife import jackknife
from erasure_sweep.workers.measures.statistics.prompt_sums import GROUPS, PromptSums, RowSums, merge_prompt_sums
from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    SketchSum,
    SparseCounts,
    add_counts,
    bin_centres,
    bin_indices,
    quantiles,
    stored_counts,
)
from erasure_sweep.workers.measures.statistics.rows import RowT
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.records import State
from erasure_sweep.workers.tables.columns import QUANTILES

STORED_BYTES_PER_RATIO = 200
"""Of one row of a shard of 8 prompts on disk, compressed."""
STORED_BYTES_PER_MEDIAN = 600
"""Of the sketches of its prompts beside that, where its median has an interval."""


class RatioRecorder(Generic[RowT]):
    """Rows of one shard; every prompt brings the same rows, in the order of the corpus."""

    def __init__(self) -> None:
        self._sums: PromptSums[RowT] = PromptSums()
        self._counts: dict[tuple[RowT, ...], Int[Tensor, "row n_bins"]] = {}
        self._bins: dict[tuple[RowT, ...], list[Int[Tensor, "row token"]]] = {}
        """Prompt by prompt, −1 where there is no ratio; of rows whose medians get an interval."""

    def add(
        self,
        row: RowT,
        product: Float[Tensor, "token"],
        norm_sq: Float[Tensor, "token"],
        valid: Bool[Tensor, "token"],
        inside: Bool[Tensor, "token"] | None = None,
    ) -> None:
        """Take in a row of a prompt.

        Args:
            row: what it is; once in a prompt.
            product, norm_sq: a·b and |b|².
            valid: which tokens have a ratio, where b is not zero; all tokens count in the sums.
            inside: which tokens belong to the row at all.
        """
        if inside is not None:
            product, norm_sq = product * inside, norm_sq * inside
        self.add_rows((row,), product[None], norm_sq, valid)

    def add_rows(
        self,
        rows: tuple[RowT, ...],
        product: Float[Tensor, "row token"],
        norm_sq: Float[Tensor, "token"],
        valid: Bool[Tensor, "token"],
        median_interval: bool = False,
    ) -> None:
        """Take in several rows of one b, the same at every prompt.

        Args:
            median_interval: whether an interval of their medians will be asked for.
        """
        valid = valid & (norm_sq > torch.finfo(norm_sq.dtype).tiny)  # below that a ratio is not even a number
        ratio = product * (valid / norm_sq.masked_fill(~valid, 1.0))
        sums = product.double().sum(dim=-1)
        self._sums.add_rows(rows, torch.stack([sums, norm_sq.double().sum().expand_as(sums)]))
        if rows not in self._counts:
            self._counts[rows] = torch.zeros(len(rows), N_BINS, dtype=torch.int32, device=ratio.device)
        add_counts(self._counts[rows], ratio, valid.to(torch.int32))
        if median_interval:
            self._bins.setdefault(rows, []).append(bin_indices(ratio).masked_fill_(~valid, -1))

    def add_values(self, row: RowT, values: Float[Tensor, "token"]) -> None:
        """A row of plain numbers, whose pooled coefficient is their mean."""
        self.add(row, values, torch.ones_like(values), torch.ones_like(values, dtype=torch.bool))

    def export(self) -> State:
        """The rows as arrays; nothing where there are none."""
        if not self._counts:
            return {}
        sparse = SparseCounts.from_dense(torch.cat(list(self._counts.values())))
        return {**self._sums.export(), "count_gap": sparse.gap, "count": sparse.count, **self._of_prompts()}

    def _of_prompts(self) -> State:
        """Counts of each prompt, of the rows whose medians get an interval: [prompt, row] in a row."""
        if not self._bins:
            return {}
        prompts = [torch.cat(bins) for bins in zip(*self._bins.values(), strict=True)]
        filled = []
        for prompt, bins in enumerate(prompts):
            sketches = torch.arange(len(bins), device=bins.device)[:, None] + prompt * len(bins)
            filled.append((sketches * N_BINS + bins)[bins >= 0].sort().values)
        sparse = SparseCounts.at(*torch.unique_consecutive(torch.cat(filled), return_counts=True))
        every = [row for rows in self._counts for row in rows]
        place = {row: index for index, row in enumerate(every)}
        rows = np.array([place[row] for chunk in self._bins for row in chunk])
        return {"median_row": rows, "median_gap": sparse.gap, "median_count": sparse.count}


def merge_ratios(states: Iterable[State]) -> State:
    """Rows of many shards, their sums prompt by prompt, their counts added up."""
    parts = [state for state in states if state]
    merged = merge_prompt_sums(parts)
    if not parts:
        return {}
    counts = SketchSum(merged["prompt_sums"].shape[-1])
    for state in parts:
        counts.add(state)
    return {**merged, **counts.export(), **_merge_prompts(parts)}


def _merge_prompts(states: Sequence[State]) -> State:
    """Counts of each prompt, or group of prompts, of the rows whose medians get an interval."""
    if "median_row" not in states[0]:
        return {}
    rows = states[0]["median_row"]
    first, sketches, bins = 0, [], []
    for state in states:
        sketch, bin_ = np.divmod(np.cumsum(state["median_gap"], dtype=np.int64), N_BINS)
        prompt, row = np.divmod(sketch, len(rows))
        sketches.append((first + prompt) % GROUPS * len(rows) + row)
        bins.append(bin_)
        first += len(state["prompt_sums"])
    filled = np.concatenate([state["median_count"] for state in states]).astype(np.uint32)
    shape = (min(first, GROUPS) * len(rows), N_BINS)
    counts = coo_array((filled, (np.concatenate(sketches), np.concatenate(bins))), shape=shape).tocsr()
    counts.sort_indices()
    return {
        "median_row": rows,
        "median_count": counts.data,
        "median_bin": counts.indices.astype(np.uint16),
        "median_end": counts.indptr,
    }


class Ratios(Generic[RowT]):
    """Rows of many shards together.

    Args:
        kind: the named tuple that says what a row is.
        state: as ``merge_ratios`` gives it.
    """

    def __init__(self, kind: Callable[..., RowT], state: State) -> None:
        self._sums = RowSums(kind, state)
        self.rows = self._sums.rows
        if not state:
            return
        together = stored_counts(state)
        self._n = together.sum(axis=1)
        self._quantiles = quantiles(together, tuple(QUANTILES.values()))
        if "median_row" in state:
            parts = (state["median_count"], state["median_bin"].astype(np.int32), state["median_end"])
            self._of_prompts = csr_array(parts, shape=(len(state["median_end"]) - 1, N_BINS))
            self._kept = state["median_row"].tolist()

    def n(self, row: RowT) -> int:
        """Tokens that have the ratio."""
        return int(self._n[self._sums.index(row)])

    def quantiles(self, row: RowT, prefix: str = "") -> dict[str, float]:
        """The quantile columns of a row, each name behind ``prefix``; NaN where no token has the ratio."""
        values = self._quantiles[self._sums.index(row)].tolist()
        return {f"{prefix}{name}": value for name, value in zip(QUANTILES, values, strict=True)}

    def beta(self, row: RowT) -> float:
        """The pooled coefficient Σ a·b / Σ |b|²; the mean of plain numbers."""
        return float(quotient(self._sums.of(row).sum(axis=0)))

    def beta_interval(self, row: RowT) -> tuple[float, float]:
        """95 % interval of ``beta``; NaN where a single prompt has the row, or all have it alike."""
        _, low, high = self._sums.estimate(row, quotient)
        return low, high

    def median_interval(self, row: RowT) -> tuple[float, float]:
        """95 % interval of the median; NaN where a single prompt has the ratio, or all have it alike."""
        rows = np.arange(self._kept.index(self._sums.index(row)), self._of_prompts.shape[0], len(self._kept))
        counts = self._of_prompts[rows]
        together = csr_array(counts.sum(axis=0)[None])
        median = quantiles(together, (0.5,))[0, 0]
        centres = bin_centres()
        below = counts @ (np.where(centres < median, 1.0, 0.0) + np.where(centres == median, 0.5, 0.0))
        share = jackknife(np.stack([below, counts.sum(axis=1)], axis=1), quotient)
        reach = float(share.high - share.value)
        if np.isnan(reach):
            return np.nan, np.nan
        low, high = quantiles(together, (max(0.5 - reach, 0.0), min(0.5 + reach, 1.0)))[0]
        return float(low), float(high)


def quotient(sums: Float[np.ndarray, "two *batch"]) -> Float[np.ndarray, "*batch"]:
    """One sum over another; NaN where that is not positive."""
    above, below = sums
    return np.asarray(above / np.where(below > 0, below, np.nan))


def interval_columns(name: str, ends: tuple[float, float]) -> dict[str, float]:
    """The columns of an interval, beside the number that is called ``name``."""
    return {f"{name}_low": ends[0], f"{name}_high": ends[1]}
