"""Lines through attributions: of many pairs (x, y), kept under keys, their moments and a sample of points.

Moments merge by the formulas of Chan, Golub and LeVeque (1979); intervals come from drawing whole shards with replacement.
The sample holds the tokens with the lowest hashes, the same for every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.statistics.moments import CONSTANT
from erasure_sweep.workers.measures.statistics.ratios import Key, bootstrap_weights, interval
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import State

SAMPLE = 1000
MOMENTS = ("n", "mean_x", "mean_y", "sxx", "syy", "sxy", "abs_x", "abs_y")
_SEPARATOR = "\t"


class LineRecorder:
    """Pairs of one shard.

    Args:
        sampled: whether points are kept.
    """

    def __init__(self, sampled: bool) -> None:
        self._sampled = sampled
        self._sums: dict[Key, Tensor] = {}
        self._references: dict[Key, tuple[Tensor, Tensor]] = {}
        self._prompt: dict[Key, tuple[Tensor, Tensor]] = {}
        self._points: list[tuple[np.ndarray, ...]] = []

    def add(
        self,
        key: Key,
        x: Float[Tensor, "token"],
        y: Float[Tensor, "token"],
        inside: Bool[Tensor, "token"] | None = None,
    ) -> None:
        """Take in a pair at the prompt's measured tokens, or at those ``inside`` alone."""
        if self._sampled:
            blank = x.new_full((), torch.nan)
            self._prompt[key] = (x, y) if inside is None else (x.where(inside, blank), y.where(inside, blank))
        if inside is not None:
            x, y = x[inside], y[inside]
        x, y = x.double(), y.double()
        if len(x):
            self._references.setdefault(key, (x.mean(), y.mean()))
        zero = x.new_zeros(())
        reference = self._references.get(key, (zero, zero))
        dx, dy = x - reference[0], y - reference[1]
        sums = [dx.sum(), dy.sum(), dx.square().sum(), dy.square().sum(), (dx * dy).sum(), x.abs().sum(), y.abs().sum()]
        added = torch.stack([x.new_tensor(float(len(x))), *sums])
        self._sums[key] = self._sums[key] + added if key in self._sums else added

    def end_prompt(self, view: PromptView) -> None:
        """Keep the prompt's points with the lowest hashes."""
        if not self._sampled:
            return
        positions = view.positions.cpu().numpy()
        hashes = hash_u64(view.seed, view.corpus_prompt, positions)
        kept = np.argsort(hashes, kind="stable")[:SAMPLE]
        columns = torch.from_numpy(kept).to(view.positions.device)
        x, y = (
            torch.stack(side)[:, columns].T.float().cpu().numpy() for side in zip(*self._prompt.values(), strict=True)
        )
        self._points.append((hashes[kept], np.full(len(kept), view.corpus_prompt), positions[kept], x, y))
        self._prompt = {}

    def export(self) -> State:
        """Moments about the shard's means, and its sample."""
        keys = list(self._sums)
        sums = torch.stack([self._sums[key] for key in keys]).cpu().numpy()
        zero = torch.zeros((), dtype=torch.float64)
        reference = np.array([[float(v) for v in self._references.get(key, (zero, zero))] for key in keys])
        n = sums[:, 0]
        mean = sums[:, 1:3] / np.maximum(n, 1)[:, None]
        moments = [
            n,
            *(mean + reference).T,
            sums[:, 3] - n * mean[:, 0] ** 2,
            sums[:, 4] - n * mean[:, 1] ** 2,
            sums[:, 5] - n * mean[:, 0] * mean[:, 1],
            sums[:, 6],
            sums[:, 7],
        ]
        state = {"keys": np.array([_SEPARATOR.join(key) for key in keys]), "moments": np.stack(moments)}
        return state | (_sample(self._points) if self._sampled else {})


POINTS = ("hash", "prompt", "position", "x", "y")


def _sample(parts: Sequence[tuple[np.ndarray, ...]]) -> State:
    """The points with the lowest hashes of several samples."""
    joined = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = np.argsort(joined[0], kind="stable")[:SAMPLE]
    return {f"point_{name}": values[order] for name, values in zip(POINTS, joined, strict=True)}


class Line(NamedTuple):
    """A least squares line of y on x."""

    r: float
    slope: float
    intercept: float
    low: float
    high: float
    """Interval of r."""
    slope_low: float
    slope_high: float
    n: int


class Lines:
    """Pairs of many shards together.

    Args:
        states: of the shards, in plan order.
    """

    def __init__(self, states: Sequence[State]) -> None:
        self._row = {tuple(key.split(_SEPARATOR)): row for row, key in enumerate(states[0]["keys"].tolist())}
        self._moments = np.stack([state["moments"] for state in states])
        self._weights = bootstrap_weights(len(states))
        self._points = {}
        if "point_hash" in states[0]:
            self._points = _sample([tuple(state[f"point_{name}"] for name in POINTS) for state in states])

    def __contains__(self, key: Key) -> bool:
        return key in self._row

    def mean_abs(self, key: Key) -> tuple[float, float]:
        """Mean absolute values of x and y."""
        n, *_, abs_x, abs_y = self._moments[:, :, self._row[key]].sum(axis=0)
        return (float(abs_x / n), float(abs_y / n)) if n > 0 else (np.nan, np.nan)

    def square_x(self, key: Key) -> float:
        """Σ x²."""
        moments = dict(zip(MOMENTS, self._moments[:, :, self._row[key]].T, strict=True))
        return float((moments["sxx"] + moments["n"] * moments["mean_x"] ** 2).sum())

    def line(self, key: Key, least_square: float = 0.0) -> Line:
        """The line of a pair; NaN where one side is constant.

        Args:
            least_square: Σ x² of something that x is a part of: x is constant where it varies by rounding beside that.
        """
        moments = self._moments[:, :, self._row[key]]
        r, slope, intercept = _fit(moments, np.ones((1, len(moments))), least_square)
        drawn_r, drawn_slope, _ = _fit(moments, self._weights, least_square)
        n = int(moments[:, 0].sum())
        ends = (*_interval_of(r[0], drawn_r), *_interval_of(slope[0], drawn_slope))
        return Line(float(r[0]), float(slope[0]), float(intercept[0]), *ends, n)

    def points(self, key: Key) -> dict[str, np.ndarray]:
        """The sampled tokens of a pair: ``prompt``, ``position``, ``x`` and ``y``."""
        x, y = (self._points[f"point_{name}"][:, self._row[key]] for name in ("x", "y"))
        there = np.isfinite(x)
        places = {name: self._points[f"point_{name}"][there] for name in ("prompt", "position")}
        return {**places, "x": x[there], "y": y[there]}

    def spearman(self, key: Key) -> float:
        """Rank correlation of the sampled points; NaN where there are fewer than two or one side is constant."""
        points = self.points(key)
        if len(points["x"]) < 2 or np.ptp(points["x"]) == 0 or np.ptp(points["y"]) == 0:
            return np.nan
        return float(stats.spearmanr(points["x"], points["y"]).statistic)


def _interval_of(value: float, drawn: Float[np.ndarray, "replicate"]) -> tuple[float, float]:
    """The interval of something that has a value."""
    return interval(drawn) if np.isfinite(value) else (np.nan, np.nan)


def _fit(
    moments: Float[np.ndarray, "shard moment"], weights: Float[np.ndarray, "replicate shard"], least_square: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, slope and intercept of shards taken as often as each replicate's weights say."""
    n, mean_x, mean_y, sxx, syy, sxy, *_ = moments.T
    total = n.sum()
    if len(weights) == 0 or total == 0:
        return (np.full(len(weights), np.nan),) * 3
    # Moments about common points lose nothing to rounding when shards are added up.
    x0, y0 = (n @ mean_x) / total, (n @ mean_y) / total
    dx, dy = mean_x - x0, mean_y - y0
    with np.errstate(invalid="ignore", divide="ignore"):
        count = weights @ n
        x, y = weights @ (n * dx) / count, weights @ (n * dy) / count
        square_x = weights @ (sxx + n * dx**2) - count * x**2
        square_y = weights @ (syy + n * dy**2) - count * y**2
        product = weights @ (sxy + n * dx * dy) - count * x * y
        floor_x = CONSTANT * np.maximum(square_x + count * (x + x0) ** 2, least_square * count / total)
        square_x = np.where(square_x > floor_x, square_x, np.nan)
        square_y = np.where(square_y > CONSTANT * (square_y + count * (y + y0) ** 2), square_y, np.nan)
        slope = product / square_x
        return product / np.sqrt(square_x * square_y), slope, (y + y0) - slope * (x + x0)
