"""What is erased of all heads of a model together, and what of it the number of heads alone explains.

All heads of a model are measured, so quantiles over them have no error of sampling heads. Intervals are over prompts: the
ends are the same quantile of the heads' own lower and upper ends. Where the heads' errors have one cause, as a shift of all,
this is the interval of the quantile; where they are independent it is wider than it need be.

A maximum is another matter: the largest of many heads is larger than that of few from the same distribution. Drawing heads of
the smaller model cannot tell by how much, since no draw exceeds its own maximum. So models are compared the other way round:

- ``largest_of``: the largest of ``n`` heads drawn from the model without replacement, for any number that all models have; the
  mean over draws is unbiased (Hurlbert 1971, rarefaction).
- ``exceedance_p``: if the heads of two models were of one distribution, how often as many of the larger's as are seen, or more,
  would exceed all of the smaller's: exact, whatever the distribution (Gumbel and von Schelling 1950).
- ``rank_sum_z``: the same question for the heads as a whole (Mann and Whitney 1947, ties corrected).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.values import Floats, Tables, numeric, table_of

LEVEL = 0.025
"""Of each side: what is rarer by chance counts as clear of it."""
CLEAR_Z = 1.96
"""The quantile of the normal distribution that goes with it."""
NAN = float("nan")


class HeadShares(NamedTuple):
    """What is erased of each measured head, and the ends of its interval over prompts; NaN where it has none."""

    labels: list[str]
    shares: Floats
    low: Floats
    high: Floats

    @property
    def largest(self) -> tuple[str, float]:
        """The most erased head and its share; NaN where no head was measured."""
        if not self.labels:
            return "", NAN
        at = int(np.argmax(self.shares))
        return self.labels[at], float(self.shares[at])


def head_shares(tables: Tables, *, centred: bool = False) -> HeadShares:
    """The heads of which later heads could erase anything, in the order of the stream.

    Args:
        centred: with what is the same at every token left out.
    """
    writers = table_of(tables, "writers")
    labels = writers["writer"].astype(str).tolist()
    suffix = "_centred" if centred else ""
    shares, low, high = (numeric(writers, f"erased{suffix}{end}") for end in ("", "_low", "_high"))
    kept = np.array([is_head(label) for label in labels], dtype=bool) & np.isfinite(shares)
    return HeadShares(
        [label for label, keep in zip(labels, kept, strict=True) if keep], shares[kept], low[kept], high[kept]
    )


def shown_heads(tables: Tables) -> HeadShares:
    """What is said of the heads: with means removed where that was measured, else with means kept."""
    centred = head_shares(tables, centred=True)
    return centred if centred.labels else head_shares(tables)


def diluted_of(tables: Tables, labels: Sequence[str]) -> float:
    """The median over these writers of what growth of the stream takes from them; NaN where it was not measured."""
    writers = table_of(tables, "writers")
    diluted = numeric(writers, "diluted")[writers["writer"].astype(str).isin(labels).to_numpy()]
    return float(np.nanmedian(diluted)) if np.isfinite(diluted).any() else NAN


def quantile_of(heads: HeadShares, q: float) -> Interval:
    """A quantile over the heads with its interval over prompts; no interval where no head has one."""
    if not heads.labels:
        return Interval(NAN, NAN, NAN)
    value = float(np.quantile(heads.shares, q))
    if not (np.isfinite(heads.low) & np.isfinite(heads.high)).any():
        return Interval(value, NAN, NAN)
    # a head without an interval did not vary
    low, high = (np.where(np.isfinite(ends), ends, heads.shares) for ends in (heads.low, heads.high))
    return Interval(value, float(np.quantile(low, q)), float(np.quantile(high, q)))


def largest_of(shares: Floats, n: int) -> Interval:
    """The largest of ``n`` of these heads drawn without replacement: its mean, and where it lies in 95 % of draws."""
    if not 0 < n <= len(shares):
        return Interval(NAN, NAN, NAN)
    ascending = np.sort(shares)
    draws = math.comb(len(shares), n)
    # true division of whole numbers, which are far too large for floats
    below = np.array([math.comb(k, n) / draws for k in range(len(shares) + 1)])
    low, high = (float(ascending[np.searchsorted(below[1:], level)]) for level in (LEVEL, 1 - LEVEL))
    return Interval(float(np.diff(below) @ ascending), low, high)


def exceeding(smaller: Floats, larger: Floats) -> int:
    """How many heads of the larger model are erased more than each head of the smaller one."""
    return int((larger > smaller.max()).sum())


def exceedance_p(smaller: Floats, larger: Floats) -> float:
    """How often that many or more would be by chance, were the heads of both of one distribution."""
    n, k = len(larger), exceeding(smaller, larger)
    return math.perm(n, k) / math.perm(n + len(smaller), k)


def rank_sum_z(smaller: Floats, larger: Floats) -> float:
    """By how many standard deviations the larger model's heads rank above the smaller's; 0 where all are alike.

    Half a rank is taken off for continuity.
    """
    m, n = len(smaller), len(larger)
    _, place, counts = np.unique(np.concatenate([smaller, larger]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    excess = float(ranks[m:].sum()) - n * (m + n + 1) / 2
    ties = float((counts**3 - counts).sum()) / ((m + n) * (m + n - 1))
    variance = m * n / 12 * (m + n + 1 - ties)
    if variance <= 0:
        return 0.0
    return math.copysign(max(abs(excess) - 0.5, 0.0), excess) / math.sqrt(variance)
