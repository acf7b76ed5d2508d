"""Intervals by leaving out one prompt at a time: how sure a number is that is worked out from sums over prompts.

Tokens of one prompt depend on each other, different prompts hardly do. So a number θ of the sums over all P prompts is worked
out again without each of them, θ_i, and from how these differ follow its variance and its 95 % interval, those of the
jackknife (Tukey 1958; Efron 1979, section 3):

    var θ = (P − 1)/P · Σ_i (θ_i − mean θ_i)²        θ ± t(0.975; P − 1) · √var θ.

Of a mean this is the t-interval over prompts. A number whose spread depends on its size is taken to a scale on which it does
so less, and the ends are taken back: correlations to Fisher's z, sizes to their logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

LEVEL = 0.95
ROUNDING = 1e-12
"""Share of a number below which it varies by rounding alone."""
STRONGEST = 1 - 1e-12
"""The strongest correlation whose Fisher's z is taken: that of 1 is infinite."""


class Estimate(NamedTuple):
    """A number, or an array of them, with its 95 % interval.

    The ends are NaN where fewer than two prompts have anything, and where leaving out any of them changes nothing: then nothing
    says how far off the number may be.
    """

    value: Any
    low: Any
    high: Any

    def columns(self, name: str) -> dict[str, Any]:
        """The columns of a number that is called ``name``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


class Scale(NamedTuple):
    """On which scale an interval is symmetric about its number."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


PLAIN = Scale(lambda values: values, lambda values: values)
FISHER = Scale(lambda r: np.arctanh(np.clip(r, -STRONGEST, STRONGEST)), np.tanh)
LOG = Scale(np.log, np.exp)

Statistic = Callable[[Float[np.ndarray, "sum *batch"]], Float[np.ndarray, "*batch"]]
"""From sums over prompts to a number, for as many sets of sums at once as there are; NaN where it has none."""


def jackknife(sums: Float[np.ndarray, "prompt sum *row"], statistic: Statistic, scale: Scale = PLAIN) -> Estimate:
    """A statistic of the sums over all prompts and its interval, for each row.

    Args:
        sums: of each prompt; one whose sums are all zero has no part in the row.
    """
    there = (sums != 0).any(axis=1)
    left_out = np.moveaxis(without_each(sums), 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.asarray(statistic(np.cumsum(sums, axis=0)[-1]))
        ends = interval(value, np.asarray(statistic(left_out)), scale, there)
    return Estimate(value, *ends)


def without_each(sums: Float[np.ndarray, "prompt *k"]) -> Float[np.ndarray, "prompt *k"]:
    """Sums over all prompts but one, for each: added up, since to subtract a large one costs the others' digits."""
    nothing = np.zeros_like(sums[:1])
    before = np.concatenate([nothing, np.cumsum(sums, axis=0)[:-1]])
    behind = np.concatenate([np.cumsum(sums[::-1], axis=0)[-2::-1], nothing])
    together: Float[np.ndarray, "prompt *k"] = before + behind
    return together


def interval(
    value: Float[np.ndarray, "*row"],
    left_out: Float[np.ndarray, "prompt *row"],
    scale: Scale = PLAIN,
    there: Bool[np.ndarray, "prompt *row"] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends for values that were also worked out without each of the prompts.

    Args:
        there: which prompts have a part in which row; all where ``None``.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        centre, without = scale.to(np.asarray(value)), scale.to(left_out)
        part = np.ones(without.shape, dtype=bool) if there is None else there
        n = part.sum(axis=0)
        mean = np.where(part, without, 0.0).sum(axis=0) / n
        squares = np.where(part, without - mean, 0.0) ** 2
        error = np.sqrt((n - 1) / n * squares.sum(axis=0))
        # NaN where there are no degrees of freedom, or nothing to go by
        freedom = np.where(n > 1, n - 1.0, np.nan)
        known = np.where(error > ROUNDING * np.abs(centre), error, np.nan)
        width = special.stdtrit(freedom, (1 + LEVEL) / 2) * known
        return np.asarray(scale.back(centre - width)), np.asarray(scale.back(centre + width))
