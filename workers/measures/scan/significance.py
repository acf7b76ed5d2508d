"""How sure an eraser is: every pair tested against chance, and false discoveries controlled over all of them.

A model has thousands of pairs of a writer and a later head, so some look like erasers in any sample of prompts. Tokens of
one prompt depend on each other; shards, each of other prompts, hardly do. Of every pair each shard gives one pooled
coefficient β of the V-composed part, and a one-sided t-test over shards asks whether their mean lies below −τ. Mean and
squared deviations are kept while shards are read (Welford 1962), so what is kept does not grow with their number.

The p-values of all pairs together go through the procedure of Benjamini and Hochberg (1995). It holds the expected share
of false ones among the discoveries at the level where the tests are independent or positively dependent. Pairs of one model
see the same prompts, which is dependence, and nothing says that it is positive; the procedure of Benjamini and Yekutieli
(2001) holds the level under any dependence, and finds fewer. How the β of shards spread also gives the t-interval of β.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special

LEVEL = 0.05
"""Expected share of false discoveries that is accepted."""


class ShardSpread(NamedTuple):
    """How values vary over shards, row by row."""

    n: Int[np.ndarray, "row"]
    """In how many shards the row has a value."""
    mean: Float[np.ndarray, "row"]
    squares: Float[np.ndarray, "row"]
    """Σ (value − mean)²."""

    @classmethod
    def empty(cls, n_rows: int) -> ShardSpread:
        """No shard yet."""
        return cls(np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows), np.zeros(n_rows))

    def with_shard(self, values: Float[np.ndarray, "row"]) -> ShardSpread:
        """One shard more; rows that have no value in it are NaN."""
        present = ~np.isnan(values)
        n = self.n + present
        apart = np.where(present, values - self.mean, 0.0)
        mean = self.mean + apart / np.maximum(n, 1)
        return ShardSpread(n, mean, self.squares + apart * np.where(present, values - mean, 0.0))


def p_below(spread: ShardSpread, bound: float) -> Float[np.ndarray, "row"]:
    """One-sided p-values of the t-test of the hypothesis that the mean over shards is at least ``bound``.

    NaN with fewer than two shards, and where all have the same value: nothing then says how far the mean may be off.
    """
    error, freedom = _error(spread)
    p: np.ndarray = special.stdtr(freedom, (spread.mean - bound) / error)
    return p


def half_width(spread: ShardSpread) -> Float[np.ndarray, "row"]:
    """Half the width of the 95 % t-interval of the mean over shards; NaN where there is no p-value either."""
    error, freedom = _error(spread)
    width: np.ndarray = special.stdtrit(freedom, 0.975) * error
    return width


def _error(spread: ShardSpread) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
    """The standard error of the mean and its degrees of freedom; NaN where there are none, or nothing varies."""
    freedom = np.where(spread.n > 1, spread.n - 1.0, np.nan)
    error = np.sqrt(spread.squares / freedom / np.maximum(spread.n, 1))
    return np.where(error > 0.0, error, np.nan), freedom


def discoveries(
    p: Float[np.ndarray, "row"], tested: Bool[np.ndarray, "row"], method: Literal["bh", "by"]
) -> Shaped[np.ndarray, "row"]:
    """Which of the tested rows are discoveries at ``LEVEL``: ``True``, ``False``, and ``None`` for a row without a test.

    Args:
        p: p-values; a row whose p-value is NaN has no test either.
        tested: the rows that are one family of tests.
        method: by Benjamini and Hochberg, or by Benjamini and Yekutieli.
    """
    tested = tested & ~np.isnan(p)
    found = np.full(len(p), None, dtype=object)
    if tested.any():
        found[tested] = (_adjusted(p[tested], method) <= LEVEL).tolist()
    return found


def _adjusted(p: Float[np.ndarray, "test"], method: Literal["bh", "by"]) -> Float[np.ndarray, "test"]:
    """p-values that hold the rate of false discoveries, as ``scipy.stats.false_discovery_control`` gives them.

    That module takes two seconds to import, in every worker and helper.
    """
    order, rank = np.argsort(p, kind="stable"), np.arange(1, len(p) + 1)
    scaled = p[order] * (len(p) / rank)
    if method == "by":
        scaled = scaled * np.sum(1 / rank)
    found = np.empty_like(p)
    found[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.asarray(np.minimum(found, 1.0))
