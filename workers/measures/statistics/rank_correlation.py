"""Spearman's rank correlation of many columns of paired values, and its interval by leaving out groups of tokens.

Ranks are not sums: whoever leaves a prompt out moves the ranks of all others. So they are taken again without each group, from
one order of the values: without a group, a value stands behind as many others as are left before it in that order. The spread
of Fisher's z over groups gives the interval (``jackknife``). With ranks kept as they are it would be too narrow for strong
correlations: simulated from 32 heavy-tailed prompts it held the value in 0.89 of draws where 0.95 was promised, this in 0.94.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from erasure_sweep.workers.measures.statistics.jackknife import FISHER, Estimate, interval


class GroupedRanks:
    """Ranks within columns of values, of all tokens and without each group of them.

    Args:
        values: one column for each quantity.
        group: of each token, counted from 0.
    """

    def __init__(self, values: Float[np.ndarray, "token column"], group: Int[np.ndarray, "token"]) -> None:
        self._group = group
        self._order = np.argsort(values, axis=0, kind="stable")
        ordered = np.take_along_axis(values, self._order, axis=0)
        place = np.arange(len(ordered), dtype=np.int32)[:, None]
        differs = np.vstack([np.ones((1, ordered.shape[1]), dtype=bool), ordered[1:] != ordered[:-1]])
        less = np.maximum.accumulate(np.where(differs, place, 0), axis=0)
        last = np.vstack([differs[1:], np.ones((1, ordered.shape[1]), dtype=bool)])
        upto = np.minimum.accumulate(np.where(last, place + 1, len(ordered))[::-1], axis=0)[::-1]
        self._less, self._upto = self._of_tokens(less), self._of_tokens(upto)

    def _of_tokens(self, of_places: Int[np.ndarray, "place column"]) -> Int[np.ndarray, "token column"]:
        found = np.empty(self._order.shape, dtype=np.int32)
        np.put_along_axis(found, self._order, of_places.astype(np.int32), axis=0)
        return found

    def centred(self, without: int | None = None) -> Float[np.ndarray, "_ column"]:
        """Ranks less their mean, equal values sharing theirs; of all tokens, or of those outside of a group."""
        kept = np.ones(len(self._group), dtype=bool) if without is None else self._group != without
        before = np.zeros((len(kept) + 1, self._order.shape[1]), dtype=np.int32)
        np.cumsum(kept[self._order], axis=0, out=before[1:])
        less, upto = (np.take_along_axis(before, places[kept], axis=0) for places in (self._less, self._upto))
        ranks: Float[np.ndarray, "_ column"] = (less + upto - np.float64(kept.sum())) / 2
        return ranks


def rank_correlations(
    x: GroupedRanks, y: GroupedRanks, n_groups: int, x_of: Int[np.ndarray, "row"], y_of: Int[np.ndarray, "row"]
) -> Estimate:
    """Rank correlation of every row and its interval; NaN where one side is constant, or there are fewer than two tokens.

    Args:
        x_of, y_of: which columns a row is about.
    """
    value = _correlation(x.centred()[:, x_of], y.centred()[:, y_of])
    if n_groups < 2:
        return Estimate(value, *[np.full_like(value, np.nan)] * 2)
    left_out = [_correlation(x.centred(group)[:, x_of], y.centred(group)[:, y_of]) for group in range(n_groups)]
    return Estimate(value, *interval(value, np.stack(left_out), FISHER))


def _correlation(x: Float[np.ndarray, "token row"], y: Float[np.ndarray, "token row"]) -> Float[np.ndarray, "row"]:
    if len(x) < 2:
        return np.full(x.shape[1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0)))
