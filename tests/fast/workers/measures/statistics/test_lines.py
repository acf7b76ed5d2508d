"""Lines through pairs: beside numpy's, in the same digits however prompts are divided, and far from zero as well as near it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.statistics.lines import LineRecorder, Lines, merge_lines
from erasure_sweep.workers.records import State

N_PROMPTS, N_TOKENS = 11, 20


class Kind(NamedTuple):
    name: str


PLAIN, LATE = Kind("plain"), Kind("late")


def pairs(prompt: int, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(prompt)
    x = generator.normal(generator.normal(), 1.0, N_TOKENS)
    return torch.from_numpy(x + offset), torch.from_numpy(-0.5 * x + generator.normal(size=N_TOKENS) - offset)


def shard(prompts: range, offset: float) -> State:
    recorder: LineRecorder[Kind] = LineRecorder()
    late = torch.arange(N_TOKENS) >= 15
    for prompt in prompts:
        view = PromptView.__new__(PromptView)  # all that a recorder asks of it
        view.positions, view.seed, view.corpus_prompt = torch.arange(N_TOKENS), 0, prompt
        x, y = pairs(prompt, offset)
        recorder.add(PLAIN, view, x, y)
        recorder.add(LATE, view, x, y, late)
    return recorder.export()


def merged(size: int, offset: float = 0.0) -> State:
    return merge_lines(shard(range(i, min(i + size, N_PROMPTS)), offset) for i in range(0, N_PROMPTS, size))


@pytest.mark.parametrize(("row", "first"), [(PLAIN, 0), (LATE, 15)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_lines_are_numpys_and_their_intervals_over_prompts(row: Kind, first: int, offset: float) -> None:
    every = [[side[first:].numpy() for side in pairs(prompt, offset)] for prompt in range(N_PROMPTS)]

    def fit(prompts: list[int]) -> tuple[float, float]:
        x, y = (np.concatenate([every[prompt][side] for prompt in prompts]) for side in (0, 1))
        return float(np.corrcoef(x, y)[0, 1]), float(np.polyfit(x - offset, y, 1)[0])

    r, slope = fit(list(range(N_PROMPTS)))
    z, slopes = np.array([fit([p for p in range(N_PROMPTS) if p != out]) for out in range(N_PROMPTS)]).T
    error, error_z = (np.sqrt(N_PROMPTS - 1) * of.std() for of in (slopes, np.arctanh(z)))
    t = stats.t.ppf(0.975, N_PROMPTS - 1)
    line = Lines(Kind, merged(3, offset)).line(row)
    assert (line.r, line.slope, line.n) == pytest.approx((r, slope, N_PROMPTS * (N_TOKENS - first)), rel=1e-8)
    assert (line.slope_low, line.slope_high) == pytest.approx((slope - t * error, slope + t * error), rel=1e-7)
    expected = np.tanh([np.arctanh(r) - t * error_z, np.arctanh(r) + t * error_z])
    assert (line.low, line.high) == pytest.approx(tuple(expected), rel=1e-7)


def test_no_digit_depends_on_the_shards() -> None:
    first, *others = (merged(size) for size in (1, 4, N_PROMPTS))
    for other in others:
        assert first.keys() == other.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_rank_correlations_of_points_have_intervals() -> None:
    lines = Lines(Kind, merged(4))
    points, found = lines.points(PLAIN), lines.spearman(PLAIN)
    assert len(points["x"]) == N_PROMPTS * N_TOKENS
    assert found.value == pytest.approx(stats.spearmanr(points["x"], points["y"]).statistic)
    assert found.low < found.value < found.high
