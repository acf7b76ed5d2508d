"""The literal oracle of direct logit attribution, in float64.

- DLA of an output o at a token: ((o − mean o) / final LayerNorm scale)·(u_a − u_b), u the unembedding's columns and a, b
  the two most likely next tokens at that token; of tokens equally likely the lower id comes first.
- The line y = slope·x + intercept by least squares and Pearson's r, from sums over all measured tokens; Spearman's
  coefficient is Pearson's of the ranks, equal values sharing the mean of theirs.
- Where x or y is the same at every token there is no r; where x is, there is no line either.
- 95 % intervals of r and of the slope: shards of prompts are dealt in turn to at most 16 groups, everything is computed
  again without each group, and the values spread as Tukey's jackknife has it, those of r after Fisher's transformation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.scan import Activations, Kept
from tests.support.oracle.sublayers import centre

LINE = ("r", "slope", "intercept", "spearman")
INTERVALS = ("low", "high", "slope_low", "slope_high")
OF_RANKS = ("spearman_low", "spearman_high")
GROUPS = 16
STRONGEST = 1.0 - 1e-12
"""The largest |r| that Fisher's transformation is applied to."""
ROUNDING = 1e-12
"""Share of a number below which it varies over groups by rounding alone: then nothing says how far off it may be."""
SAME = 1e-12
"""Share of a quantity's power that must vary over tokens; less is rounding."""


class Readout(NamedTuple):
    """What turns an output into its DLA at the measured tokens."""

    final_scale: np.ndarray
    """[token]."""
    direction: np.ndarray
    """u_a − u_b at each token as the final norm sees it, [token, d_model]."""


def top_two(logits: Sequence[float]) -> tuple[int, int]:
    """Ids of the two most likely next tokens."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    return ranked[0], ranked[1]


def readout(config: ModelConfig, runs: Sequence[Activations], kept: Kept, unembedding: np.ndarray) -> Readout:
    """Final scales and logit directions at the measured positions ``kept`` [prompt, n] of every prompt."""
    scales, directions = [], []
    for run, positions in zip(runs, kept, strict=True):
        for position in positions:
            a, b = top_two(run.logits[position].tolist())
            scales.append(run.final_scale[position])
            directions.append(unembedding[:, a] - unembedding[:, b])
    return Readout(np.array(scales), centre(config, np.array(directions)))


def attribute(output: np.ndarray, to: Readout) -> np.ndarray:
    """DLA [token] of an output [token, d_model]."""
    return (output / to.final_scale[:, None] * to.direction).sum(axis=1)


def correlate(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """r, slope, intercept and Spearman's coefficient of y on x; NaN for what is not defined."""
    if is_constant(x):
        return dict.fromkeys(LINE, math.nan)
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    line = {"slope": slope, "intercept": float(y.mean() - slope * x.mean())}
    if is_constant(y):
        return {"r": math.nan, "slope": 0.0, "intercept": float(y.mean()), "spearman": math.nan}
    return {"r": pearson(x, y), **line, "spearman": pearson(ranks(x), ranks(y))}


def intervals(x: np.ndarray, y: np.ndarray, shards: Sequence[np.ndarray]) -> dict[str, float]:
    """Intervals of r and of the slope; NaN where there is but one group, or no value without one of them.

    Args:
        x, y: at every measured token.
        shards: the tokens of each shard.
    """
    groups = [np.concatenate(shards[start::GROUPS]) for start in range(min(GROUPS, len(shards)))]
    if len(groups) < 2:
        return dict.fromkeys((*INTERVALS, *OF_RANKS), math.nan)
    kept = [np.setdiff1d(np.arange(len(x)), group) for group in groups]
    whole, partial = correlate(x, y), [correlate(x[rest], y[rest]) for rest in kept]
    z, without = fisher(whole["r"]), [fisher(line["r"]) for line in partial]
    reach, slope_reach = jackknife(without), jackknife([line["slope"] for line in partial])
    of_ranks, rank_reach = fisher(whole["spearman"]), jackknife([fisher(line["spearman"]) for line in partial])
    return {
        "low": math.tanh(z - reach),
        "high": math.tanh(z + reach),
        "slope_low": whole["slope"] - slope_reach,
        "slope_high": whole["slope"] + slope_reach,
        "spearman_low": math.tanh(of_ranks - rank_reach),
        "spearman_high": math.tanh(of_ranks + rank_reach),
    }


def fisher(r: float) -> float:
    """Fisher's z of a correlation coefficient."""
    return r if math.isnan(r) else math.atanh(max(-STRONGEST, min(STRONGEST, r)))


def jackknife(without: Sequence[float]) -> float:
    """Half the width of a 95 % interval, from the values without each of n groups: t with n − 1 degrees of freedom."""
    n, mean = len(without), sum(without) / len(without)
    error = math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))
    return t_quantile(n - 1) * error if error > ROUNDING * abs(mean) else math.nan


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side."""
    return float(stats.t(freedom).ppf(0.975))


def is_constant(values: np.ndarray) -> bool:
    """Whether a quantity is the same at every token, as far as float64 can tell."""
    return bool(np.sum((values - values.mean()) ** 2) <= SAME * np.sum(values**2))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation coefficient."""
    dx, dy = x - x.mean(), y - y.mean()
    return float(np.sum(dx * dy) / math.sqrt(np.sum(dx**2) * np.sum(dy**2)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks counted from one; equal values share the mean of their ranks."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])
