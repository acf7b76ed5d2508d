"""Lines through attributions: of many rows of pairs (x, y), their moments and a sample of points.

Shards stay apart, and moments about common points are added up as often as a shard is drawn: intervals come from drawing
whole shards with replacement. The sample holds the tokens with the lowest hashes, the same for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.statistics.moments import CONSTANT
from erasure_sweep.workers.measures.statistics.ratios import bootstrap_weights, interval
from erasure_sweep.workers.measures.statistics.rows import RowT, decode_rows, encode_rows
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import State

SAMPLE = 1000
STORED_BYTES_PER_LINE = 64
"""Of one row of a shard on disk, without its points."""
STORED_BYTES_PER_POINT = 6
"""Of one row at one sampled token."""
MOMENTS = ("n", "mean_x", "mean_y", "sxx", "syy", "sxy", "abs_x", "abs_y")


class LineRecorder(Generic[RowT]):
    """Pairs of one shard.

    Args:
        sampled: whether points are kept.
    """

    def __init__(self, sampled: bool) -> None:
        self._sampled = sampled
        self._sums: dict[RowT, Tensor] = {}
        self._references: dict[RowT, tuple[Tensor, Tensor]] = {}
        self._points: dict[RowT, list[Float[Tensor, "side token"]]] = {}
        self._places: list[tuple[np.ndarray, ...]] = []
        self._kept: tuple[PromptView, Int[Tensor, "token"]] | None = None

    def add(
        self,
        row: RowT,
        view: PromptView,
        x: Float[Tensor, "token"],
        y: Float[Tensor, "token"],
        inside: Bool[Tensor, "token"] | None = None,
    ) -> None:
        """Take in a pair at the prompt's measured tokens, or at those ``inside`` alone."""
        if self._sampled:
            blank = x.new_full((), torch.nan)
            points = torch.stack([x, y] if inside is None else [x.where(inside, blank), y.where(inside, blank)])
            self._points.setdefault(row, []).append(points[:, self._sample_of(view)].float())
        if inside is not None:
            x, y = x[inside], y[inside]
        x, y = x.double(), y.double()
        if len(x):
            self._references.setdefault(row, (x.mean(), y.mean()))
        zero = x.new_zeros(())
        reference = self._references.get(row, (zero, zero))
        dx, dy = x - reference[0], y - reference[1]
        sums = [dx.sum(), dy.sum(), dx.square().sum(), dy.square().sum(), (dx * dy).sum(), x.abs().sum(), y.abs().sum()]
        added = torch.stack([x.new_tensor(float(len(x))), *sums])
        self._sums[row] = self._sums[row] + added if row in self._sums else added

    def _sample_of(self, view: PromptView) -> Int[Tensor, "token"]:
        """Which of the prompt's measured tokens have the lowest hashes."""
        if self._kept is None or self._kept[0] is not view:
            positions = view.positions.cpu().numpy()
            hashes = hash_u64(view.seed, view.corpus_prompt, positions)
            lowest = np.argsort(hashes, kind="stable")[:SAMPLE]
            self._kept = view, torch.from_numpy(lowest).to(view.positions.device)
            self._places.append((hashes[lowest], np.full(len(lowest), view.corpus_prompt), positions[lowest]))
        return self._kept[1]

    def export(self) -> State:
        """Moments about the shard's means, and its sample."""
        rows = list(self._sums)
        sums = torch.stack([self._sums[row] for row in rows]).cpu().numpy()
        zero = torch.zeros((), dtype=torch.float64)
        reference = np.array([[float(v) for v in self._references.get(row, (zero, zero))] for row in rows])
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
        state = {**encode_rows(rows), "moments": np.stack(moments)}
        if not self._sampled:
            return state
        points = torch.stack([torch.cat(self._points[row], dim=1) for row in rows]).permute(1, 2, 0).cpu().numpy()
        places = [np.concatenate(values) for values in zip(*self._places, strict=True)]
        return state | _sample([(*places, *points)])


def merge_lines(states: Iterable[State]) -> State:
    """Moments of many shards, [shard, moment, row], and the sample of all."""
    parts = list(states)
    rows = {name: values for name, values in parts[0].items() if name.startswith("row_")}
    sampled = "point_hash" in parts[0]
    points = _sample([tuple(state[f"point_{name}"] for name in POINTS) for state in parts]) if sampled else {}
    return {**rows, "moments": np.stack([state["moments"] for state in parts]), **points}


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


class Lines(Generic[RowT]):
    """Pairs of many shards together.

    Args:
        kind: the named tuple that says what a row is.
        state: as ``merge_lines`` gives it.
    """

    def __init__(self, kind: Callable[..., RowT], state: State) -> None:
        self.rows = decode_rows(kind, state)
        self._row = {row: index for index, row in enumerate(self.rows)}
        self._moments = state["moments"]
        self._weights = bootstrap_weights(len(self._moments))
        self._points = {name: values for name, values in state.items() if name.startswith("point_")}

    def mean_abs(self, row: RowT) -> tuple[float, float]:
        """Mean absolute values of x and y."""
        n, *_, abs_x, abs_y = self._moments[:, :, self._row[row]].sum(axis=0)
        return (float(abs_x / n), float(abs_y / n)) if n > 0 else (np.nan, np.nan)

    def square_x(self, row: RowT) -> float:
        """Σ x²."""
        moments = dict(zip(MOMENTS, self._moments[:, :, self._row[row]].T, strict=True))
        return float((moments["sxx"] + moments["n"] * moments["mean_x"] ** 2).sum())

    def line(self, row: RowT, least_square: float = 0.0) -> Line:
        """The line of a pair; NaN where one side is constant.

        Args:
            least_square: Σ x² of something that x is a part of: x is constant where it varies by rounding beside that.
        """
        moments = self._moments[:, :, self._row[row]]
        r, slope, intercept = _fit(moments, np.ones((1, len(moments))), least_square)
        drawn_r, drawn_slope, _ = _fit(moments, self._weights, least_square)
        n = int(moments[:, 0].sum())
        ends = (*_interval_of(r[0], drawn_r), *_interval_of(slope[0], drawn_slope))
        return Line(float(r[0]), float(slope[0]), float(intercept[0]), *ends, n)

    def points(self, row: RowT) -> dict[str, np.ndarray]:
        """The sampled tokens of a pair: ``prompt``, ``position``, ``x`` and ``y``."""
        x, y = (self._points[f"point_{name}"][:, self._row[row]] for name in ("x", "y"))
        there = np.isfinite(x)
        places = {name: self._points[f"point_{name}"][there] for name in ("prompt", "position")}
        return {**places, "x": x[there], "y": y[there]}

    def spearman(self, row: RowT) -> float:
        """Rank correlation of the sampled points; NaN where there are fewer than two or one side is constant."""
        points = self.points(row)
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
