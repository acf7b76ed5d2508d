"""Lines through attributions: of many rows of pairs (x, y), their moments in each prompt and a sample of points.

A prompt's moments are about its own means, and merging takes those of all prompts to the means of all tokens, so that nothing
is lost to rounding when they are added up. Intervals come from leaving out one prompt at a time (``jackknife``), of r on the
scale of Fisher's z. The sample holds the tokens with the lowest hashes, the same for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.statistics.jackknife import FISHER, Estimate, jackknife
from erasure_sweep.workers.measures.statistics.moments import CONSTANT
from erasure_sweep.workers.measures.statistics.prompt_sums import PromptSums, RowSums, deal, same_rows
from erasure_sweep.workers.measures.statistics.rank_correlation import GroupedRanks, rank_correlations
from erasure_sweep.workers.measures.statistics.rows import RowT
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import State

SAMPLE = 1000
RANK_GROUPS = 64
"""Into how many groups the prompts of the sampled points are dealt for the intervals of rank correlations, at most."""
STORED_BYTES_PER_LINE = 400
"""Of one row of a shard of 8 prompts on disk, without its points: digits of moments do not compress."""
STORED_BYTES_PER_POINT = 6
"""Of one row at one sampled token."""


class LineRecorder(Generic[RowT]):
    """Pairs of one shard; every prompt brings every row once, in the order of the corpus."""

    def __init__(self) -> None:
        self._moments: PromptSums[RowT] = PromptSums()
        """Tokens, means, squares and products about the means."""
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
        blank = x.new_full((), torch.nan)
        points = torch.stack([x, y] if inside is None else [x.where(inside, blank), y.where(inside, blank)])
        self._points.setdefault(row, []).append(points[:, self._sample_of(view)].float())
        if inside is not None:
            x, y = x[inside], y[inside]
        x, y = x.double(), y.double()
        n = x.new_tensor(float(len(x)))
        mean_x, mean_y = x.sum() / n.clamp_min(1.0), y.sum() / n.clamp_min(1.0)
        dx, dy = x - mean_x, y - mean_y
        about_means = [mean_x, mean_y, dx.square().sum(), dy.square().sum(), (dx * dy).sum()]
        self._moments.add(row, torch.stack([n, *about_means]))

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
        """Moments of each prompt about its means, and the shard's sample."""
        points = torch.stack([torch.cat(of, dim=1) for of in self._points.values()]).permute(1, 2, 0).cpu().numpy()
        places = [np.concatenate(values) for values in zip(*self._places, strict=True)]
        return self._moments.export() | _sample([(*places, *points)])


def merge_lines(states: Iterable[State]) -> State:
    """Sums about the means of all tokens, [prompt, sum, row], and the sample of all."""
    parts = list(states)
    n, mean_x, mean_y, *squares = np.concatenate([state["prompt_sums"] for state in parts]).swapaxes(0, 1)
    reference = np.stack([(n * mean).sum(axis=0) / np.maximum(n.sum(axis=0), 1) for mean in (mean_x, mean_y)])
    dx, dy = mean_x - reference[0], mean_y - reference[1]
    xx, yy, xy = (square + n * more for square, more in zip(squares, (dx**2, dy**2, dx * dy), strict=True))
    sums = deal([np.stack([n, n * dx, n * dy, xx, yy, xy], axis=1)])
    points = _sample([tuple(state[f"point_{name}"] for name in POINTS) for state in parts])
    return {**same_rows(parts), "prompt_sums": sums, "reference": reference, **points}


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
        self._sums, self._reference = RowSums(kind, state), state["reference"]
        self._points = {name: values for name, values in state.items() if name.startswith("point_")}

    def line(self, row: RowT) -> Line:
        """The line of a pair; NaN where one side is constant."""
        sums, reference = self._sums.of(row), self._reference[:, self._sums.index(row)]
        r = jackknife(sums, partial(_r, reference=reference), FISHER)
        slope = jackknife(sums, partial(_slope, reference=reference))
        fit = _fit(sums.sum(axis=0), reference)
        return Line(
            float(r.value),
            float(slope.value),
            float(fit.y - fit.xy / fit.xx * fit.x),
            float(r.low),
            float(r.high),
            float(slope.low),
            float(slope.high),
            int(sums[:, 0].sum()),
        )

    def points(self, row: RowT) -> dict[str, np.ndarray]:
        """The sampled tokens of a pair: ``prompt``, ``position``, ``x`` and ``y``."""
        x, y = (self._points[f"point_{name}"][:, self._sums.index(row)] for name in ("x", "y"))
        there = np.isfinite(x)
        places = {name: self._points[f"point_{name}"][there] for name in ("prompt", "position")}
        return {**places, "x": x[there], "y": y[there]}

    def spearman(self, row: RowT) -> Estimate:
        """Rank correlation of the sampled points; NaN where there are fewer than two or one side is constant."""
        points = self.points(row)
        group = np.unique(points["prompt"], return_inverse=True)[1] % RANK_GROUPS
        x, y = (GroupedRanks(points[name][:, None], group) for name in ("x", "y"))
        single = np.zeros(1, dtype=np.intp)
        found = rank_correlations(x, y, int(group.max(initial=-1)) + 1, single, single)
        return Estimate(*(float(number[0]) for number in found))


class _Fit(NamedTuple):
    """Moments about the means of some sets of tokens; squares that are rounding alone are NaN."""

    x: np.ndarray
    y: np.ndarray
    """Means."""
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray


def _fit(sums: Float[np.ndarray, "sum *batch"], reference: Float[np.ndarray, "two"]) -> _Fit:
    """From sums about ``reference``."""
    n, sum_x, sum_y, xx, yy, xy = sums
    n = np.where(n > 0, n, np.nan)
    dx, dy = sum_x / n, sum_y / n
    x, y = reference[0] + dx, reference[1] + dy
    xx, yy, xy = xx - n * dx**2, yy - n * dy**2, xy - n * dx * dy
    xx, yy = (np.where(of > CONSTANT * (of + n * mean**2), of, np.nan) for of, mean in ((xx, x), (yy, y)))
    return _Fit(x, y, xx, yy, xy)


def _r(sums: Float[np.ndarray, "sum *batch"], reference: np.ndarray) -> Float[np.ndarray, "*batch"]:
    fit = _fit(sums, reference)
    return np.asarray(fit.xy / np.sqrt(fit.xx * fit.yy))


def _slope(sums: Float[np.ndarray, "sum *batch"], reference: np.ndarray) -> Float[np.ndarray, "*batch"]:
    fit = _fit(sums, reference)
    return np.asarray(fit.xy / fit.xx)
