"""Ratios of many kinds, row by row: sketches for quantiles, sums for pooled coefficients, shards apart for intervals.

A row is one ratio a·b / |b|² per token, such as the presence of a writer in a state under a patch; a measure says what its rows
are by a named tuple of its own. A shard keeps of each row counts in bins (``quantile_sketch``), Σ a·b and Σ |b|². Intervals
come from drawing whole shards with replacement, since tokens of one prompt depend on each other (percentile bootstrap, Efron
1979).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import cached_property, reduce
from typing import Generic

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack
from torch import Tensor

from erasure_sweep.workers.measures.statistics.quantile_sketch import SparseCounts, add_counts, by_sketch, quantiles
from erasure_sweep.workers.measures.statistics.rows import RowT, decode_rows, encode_rows
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.records import State
from erasure_sweep.workers.tables.columns import QUANTILES

REPLICATES = 1000
LEVELS = (0.025, 0.975)
STORED_BYTES_PER_RATIO = 150
"""Of one row of a shard on disk, compressed, seen on the bundled models."""


class RatioRecorder(Generic[RowT]):
    """Rows of one shard; every prompt brings the same rows."""

    def __init__(self) -> None:
        self._counts: dict[tuple[RowT, ...], Tensor] = {}
        self._sums: dict[tuple[RowT, ...], Tensor] = {}
        self._prompts: dict[tuple[RowT, ...], int] = {}

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
    ) -> None:
        """Take in several rows of one b, the same at every prompt."""
        valid = valid & (norm_sq > torch.finfo(norm_sq.dtype).tiny)  # below that a ratio is not even a number
        ratio = product * (valid / norm_sq.masked_fill(~valid, 1.0))
        if rows not in self._counts:
            self._counts[rows] = torch.zeros(len(rows), N_BINS, dtype=torch.int32, device=ratio.device)
            self._sums[rows] = torch.zeros(2, len(rows), dtype=torch.float64, device=ratio.device)
        self._sums[rows][0] += product.double().sum(dim=-1)
        self._sums[rows][1] += norm_sq.double().sum()
        add_counts(self._counts[rows], ratio, valid.to(torch.int32))
        self._prompts[rows] = self._prompts.get(rows, 0) + 1

    def add_values(self, row: RowT, values: Float[Tensor, "token"]) -> None:
        """A row of plain numbers, whose pooled coefficient is their mean."""
        self.add(row, values, torch.ones_like(values), torch.ones_like(values, dtype=torch.bool))

    def export(self) -> State:
        """The rows as arrays; nothing where there are none."""
        if not self._counts:
            return {}
        assert len(set(self._prompts.values())) == 1, "every prompt brings every row once"
        sparse = SparseCounts.from_dense(torch.cat(list(self._counts.values())))
        product, power = torch.cat(list(self._sums.values()), dim=1).cpu().numpy()
        counts = {"count_gap": sparse.gap, "count": sparse.count}
        return {
            **encode_rows([row for rows in self._counts for row in rows]),
            **counts,
            "product": product,
            "power": power,
        }


def merge_ratios(states: Iterable[State]) -> State:
    """Rows of many shards, [shard, row]; their counts stand behind one another, shard by shard."""
    parts = [state for state in states if "product" in state]
    if not parts:
        return {}
    return {
        **{name: values for name, values in parts[0].items() if name.startswith("row_")},
        "product": np.stack([state["product"] for state in parts]),
        "power": np.stack([state["power"] for state in parts]),
        "bin": np.concatenate([np.cumsum(state["count_gap"], dtype=np.int64) for state in parts]),
        "count": np.concatenate([state["count"] for state in parts]),
        "shard_end": np.cumsum([len(state["count"]) for state in parts]),
    }


class Ratios(Generic[RowT]):
    """Rows of many shards together.

    Args:
        kind: the named tuple that says what a row is.
        state: as ``merge_ratios`` gives it.
    """

    def __init__(self, kind: Callable[..., RowT], state: State) -> None:
        self.rows = decode_rows(kind, state)
        self._row = {row: index for index, row in enumerate(self.rows)}
        if not state:
            return
        self._product, self._power = state["product"], state["power"]
        inner = state["shard_end"][:-1]
        shards = zip(np.split(state["bin"], inner), np.split(state["count"], inner), strict=True)
        self._shards = [by_sketch(bins, held, len(self.rows)) for bins, held in shards]
        together = reduce(operator.add, self._shards)
        self._n = together.sum(axis=1)
        self._quantiles = quantiles(together, tuple(QUANTILES.values()))

    @cached_property
    def _weights(self) -> Float[np.ndarray, "replicate shard"]:
        return bootstrap_weights(len(self._product))

    @cached_property
    def _draws(self) -> tuple[np.ndarray, np.ndarray]:
        """The different rows of the weights, and which of them each replicate is."""
        drawn, which = np.unique(self._weights, axis=0, return_inverse=True)
        return drawn, which.reshape(-1)

    def n(self, row: RowT) -> int:
        """Tokens that have the ratio."""
        return int(self._n[self._row[row]])

    def quantiles(self, row: RowT, prefix: str = "") -> dict[str, float]:
        """The quantile columns of a row, each name behind ``prefix``; NaN where no token has the ratio."""
        values = self._quantiles[self._row[row]].tolist()
        return {f"{prefix}{name}": value for name, value in zip(QUANTILES, values, strict=True)}

    def beta(self, row: RowT) -> float:
        """The pooled coefficient Σ a·b / Σ |b|²; the mean of plain numbers."""
        index = self._row[row]
        power = self._power[:, index].sum()
        return float(self._product[:, index].sum() / power) if power > 0 else np.nan

    def beta_interval(self, row: RowT) -> tuple[float, float]:
        """95 % interval of ``beta``; NaN with a single shard."""
        index = self._row[row]
        power = self._weights @ self._power[:, index]
        with np.errstate(invalid="ignore", divide="ignore"):
            return interval((self._weights @ self._product[:, index]) / power)

    def median_interval(self, row: RowT) -> tuple[float, float]:
        """95 % interval of the median; NaN with a single shard."""
        if not len(self._weights):
            return np.nan, np.nan
        # With few shards most draws are alike, and a row fills few of the bins.
        drawn, which = self._draws
        counts = vstack([shard[[self._row[row]]] for shard in self._shards], format="csr")
        filled = np.unique(counts.indices)
        resampled = csr_array((drawn @ counts[:, filled].toarray()).astype(np.uint32))
        parts = (resampled.data, filled[resampled.indices], resampled.indptr)
        medians = quantiles(csr_array(parts, shape=(len(drawn), N_BINS)), (0.5,))[:, 0]
        return interval(medians[which])


def bootstrap_weights(n_shards: int) -> Float[np.ndarray, "replicate shard"]:
    """How often each shard is drawn in each replicate; no replicates of a single shard."""
    if n_shards < 2:
        return np.empty((0, n_shards))
    drawn = np.random.default_rng(0).multinomial(n_shards, np.full(n_shards, 1.0 / n_shards), size=REPLICATES)
    return drawn.astype(np.float64)


def interval(replicates: Float[np.ndarray, "replicate"]) -> tuple[float, float]:
    """The 95 % percentile interval; NaN where there are no replicates, or none has a value."""
    values = replicates[np.isfinite(replicates)]
    low, high = np.quantile(values, LEVELS) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def interval_columns(name: str, ends: tuple[float, float]) -> dict[str, float]:
    """The columns of an interval, beside the number that is called ``name``."""
    return {f"{name}_low": ends[0], f"{name}_high": ends[1]}
