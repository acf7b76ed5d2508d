"""Ratios of many kinds, kept under keys: sketches for quantiles, sums for pooled coefficients, blocks for intervals.

A row is one ratio a·b / |b|² per token, such as the presence of a writer in a state under a patch. A shard keeps of each row
counts in bins (``quantile_sketch``), Σ a·b and Σ |b|². Intervals come from drawing whole shards with replacement, since tokens
of one prompt depend on each other (percentile bootstrap, Efron 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    QUANTILES,
    SparseCounts,
    add_counts,
    quantiles,
)
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.records import State

Key = tuple[str, ...]

REPLICATES = 1000
LEVELS = (0.025, 0.975)
_SEPARATOR = "\t"


class _Row(NamedTuple):
    ratio: Tensor
    valid: Tensor
    product: Tensor
    power: Tensor


class RatioRecorder:
    """Rows of one shard; every prompt brings the same rows in the same order."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._prompt: dict[Key, _Row] = {}
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None

    def add(
        self,
        key: Key,
        product: Float[Tensor, "token"],
        norm_sq: Float[Tensor, "token"],
        valid: Bool[Tensor, "token"],
        inside: Bool[Tensor, "token"] | None = None,
    ) -> None:
        """Take in a row of the prompt at hand.

        Args:
            key: what it is; once in a prompt.
            product, norm_sq: a·b and |b|².
            valid: which tokens have a ratio, where b is not zero; all tokens count in the sums.
            inside: which tokens belong to the row at all.
        """
        assert key not in self._prompt, key
        if inside is not None:
            product, norm_sq = product * inside, norm_sq * inside
        valid = valid & (norm_sq > torch.finfo(norm_sq.dtype).tiny)  # below that a ratio is not even a number
        ratio = product * (valid / norm_sq.masked_fill(~valid, 1.0))
        self._prompt[key] = _Row(ratio, valid, product.double().sum(), norm_sq.double().sum())

    def add_values(self, key: Key, values: Float[Tensor, "token"]) -> None:
        """A row of plain numbers, whose pooled coefficient is their mean."""
        self.add(key, values, torch.ones_like(values), torch.ones_like(values, dtype=torch.bool))

    def end_prompt(self) -> None:
        """Count the prompt's rows."""
        rows = list(self._prompt.values())
        if self._counts is None or self._sums is None:
            device = rows[0].ratio.device
            self._keys = list(self._prompt)
            self._counts = torch.zeros(len(rows), N_BINS, dtype=torch.int32, device=device)
            self._sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=device)
        assert list(self._prompt) == self._keys
        self._sums += torch.stack([torch.stack([row.product, row.power]) for row in rows])
        for counts, row in zip(self._counts, rows, strict=True):
            add_counts(counts[None], row.ratio[None], row.valid.to(torch.int32))
        self._prompt = {}

    def export(self) -> State:
        """The rows as arrays."""
        assert self._counts is not None and self._sums is not None
        sparse = SparseCounts.from_dense(self._counts)
        product, power = self._sums.T.cpu().numpy()
        keys = np.array([_SEPARATOR.join(key) for key in self._keys])
        return {"keys": keys, "count_gap": sparse.gap, "count": sparse.count, "product": product, "power": power}


class Ratios:
    """Rows of many shards together.

    Args:
        states: of the shards, in plan order.
    """

    def __init__(self, states: Sequence[State]) -> None:
        self._row = {tuple(key.split(_SEPARATOR)): row for row, key in enumerate(states[0]["keys"].tolist())}
        self._product = np.stack([state["product"] for state in states])
        self._power = np.stack([state["power"] for state in states])
        self._bins = [np.cumsum(state["count_gap"], dtype=np.int64) for state in states]
        self._held = [state["count"] for state in states]

    def __contains__(self, key: Key) -> bool:
        return key in self._row

    @cached_property
    def _weights(self) -> Float[np.ndarray, "replicate shard"]:
        return bootstrap_weights(len(self._product))

    @cached_property
    def _draws(self) -> tuple[np.ndarray, np.ndarray]:
        """The different rows of the weights, and which of them each replicate is."""
        drawn, which = np.unique(self._weights, axis=0, return_inverse=True)
        return drawn, which.reshape(-1)

    def _counts(self, key: Key) -> Float[np.ndarray, "shard bin"]:
        """Dense counts of one row."""
        start = self._row[key] * N_BINS
        counts = np.zeros((len(self._bins), N_BINS))
        for shard, (bins, held) in enumerate(zip(self._bins, self._held, strict=True)):
            low, high = np.searchsorted(bins, [start, start + N_BINS])
            counts[shard, bins[low:high] - start] = held[low:high]
        return counts

    def n(self, key: Key) -> int:
        """Tokens that have the ratio."""
        return int(self._counts(key).sum())

    def quantiles(self, key: Key, prefix: str = "") -> dict[str, float]:
        """The quantile columns of a row, each name behind ``prefix``; NaN where no token has the ratio."""
        counts = self._counts(key).sum(axis=0).astype(np.uint32)
        found = quantiles(counts[None], tuple(QUANTILES.values()))[0]
        return {f"{prefix}{name}": float(value) for name, value in zip(QUANTILES, found, strict=True)}

    def beta(self, key: Key) -> float:
        """The pooled coefficient Σ a·b / Σ |b|²; the mean of plain numbers."""
        row = self._row[key]
        power = self._power[:, row].sum()
        return float(self._product[:, row].sum() / power) if power > 0 else np.nan

    def beta_interval(self, key: Key) -> tuple[float, float]:
        """95 % interval of ``beta``; NaN with a single shard."""
        row = self._row[key]
        power = self._weights @ self._power[:, row]
        with np.errstate(invalid="ignore", divide="ignore"):
            return interval((self._weights @ self._product[:, row]) / power)

    def median_interval(self, key: Key) -> tuple[float, float]:
        """95 % interval of the median; NaN with a single shard."""
        if not len(self._weights):
            return np.nan, np.nan
        # With few shards most draws are alike.
        drawn, which = self._draws
        medians = quantiles((drawn @ self._counts(key)).astype(np.uint32), (0.5,))[:, 0]
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
