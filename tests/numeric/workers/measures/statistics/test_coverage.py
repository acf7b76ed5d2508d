"""Intervals hold what they promise: of 500 draws of 32 prompts, nominal 95 % intervals hold the number of the whole pool in
92 to 98 % of them.

The pool is measured once, on a bundled model that reads documents from a seeded generator, the same under every Python: each
has words of its own, so that prompts differ much and tokens of one prompt are alike, and intervals that take tokens (60 %) or
few shards (percentile bootstrap over shards of 8: 78 %) as independent fail here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_array

from erasure_sweep.workers.measures.interventions.prompt_view import views
from erasure_sweep.workers.measures.statistics.lines import LineRecorder, Lines, merge_lines
from erasure_sweep.workers.measures.statistics.rank_correlation import GroupedRanks, rank_correlations
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder, Ratios, merge_ratios
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.records import ShardTask, State, TrustWork, WriterBlock

POOL, SEQ_LEN, DRAWS, PROMPTS, SAMPLE = 320, 64, 500, 32, 500
WRITER, ERASER = "L0H3", "L1H0"


class Row(NamedTuple):
    """A component or state beside the writer."""

    label: str


READ, LEFT = Row(ERASER), Row("final")


class Pool(NamedTuple):
    """What recorders keep of every prompt: an eraser along the writer, what is left of it, and DLA beside DLA."""

    ratios: State
    lines: State
    dla: np.ndarray
    """[prompt, side, token]."""


def documents(d_vocab: int) -> np.ndarray:
    """Prompts of words that each document repeats, few or many of them; common words stand in many documents."""
    generator = np.random.default_rng(0)
    common = 1.0 / np.arange(1, d_vocab + 1)
    found = []
    for n_words in generator.integers(3, 40, POOL):
        words = generator.choice(d_vocab, n_words, replace=False, p=common / common.sum())
        found.append(words[generator.integers(0, n_words, SEQ_LEN)])
    return np.array(found)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    model = load_model(resolve_model("toy-gelu-2l", tmp_path_factory.mktemp("staging"), False).weights)[1]
    tokens = torch.from_numpy(documents(model.config.d_vocab))
    place = ("id", "trust", "", "", "", 0, POOL, None, 0)
    task = ShardTask(*place, TrustWork(WriterBlock(0, 1), SEQ_LEN), batch=16, device="cpu", dtype="float32")
    ratios: RatioRecorder[Row] = RatioRecorder()
    lines: LineRecorder[Row] = LineRecorder()
    dla = []
    with torch.inference_mode():
        for view in views(model, task, tokens, 16):
            writer, eraser, left = view.written(WRITER), view.written(ERASER), view.final[view.positions]
            products = torch.stack([(eraser * writer).sum(dim=-1), (left * writer).sum(dim=-1)])
            valid = view.valid(WRITER)[view.positions]
            ratios.add_rows((READ, LEFT), products, writer.square().sum(dim=-1), valid, median_interval=True)
            dla.append(torch.stack([(output * view.logit_direction).sum(dim=-1) for output in (writer, eraser)]))
            lines.add(READ, view, *dla[-1])
    return Pool(merge_ratios([ratios.export()]), lines.export(), torch.stack(dla).double().numpy())


def drawn(pool: Pool, prompts: np.ndarray) -> tuple[Ratios[Row], Lines[Row]]:
    """What the readers make of some of the pool's prompts."""
    kept = len(pool.ratios["median_row"])
    parts = (pool.ratios["median_count"], pool.ratios["median_bin"].astype(np.int32), pool.ratios["median_end"])
    sketches = csr_array(parts, shape=(POOL * kept, N_BINS))
    counts = sketches[(prompts[:, None] * kept + np.arange(kept)).flatten()]
    own = {"median_count": counts.data, "median_bin": counts.indices, "median_end": counts.indptr}
    sums = pool.ratios["prompt_sums"][prompts]
    of_lines = merge_lines([pool.lines | {"prompt_sums": pool.lines["prompt_sums"][prompts]}])
    return Ratios(Row, pool.ratios | own | {"prompt_sums": sums}), Lines(Row, of_lines)


def rank_interval(pool: Pool, prompts: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Of the rank correlation, from some of the tokens."""
    x, y = pool.dla[prompts].swapaxes(0, 1).reshape(2, -1)[:, chosen, None]
    group, column = chosen // pool.dla.shape[-1], np.zeros(1, dtype=int)
    found = rank_correlations(GroupedRanks(x, group), GroupedRanks(y, group), PROMPTS, column, column)
    return float(found.low[0]), float(found.high[0])


def test_of_a_hundred_intervals_95_hold_the_number_of_the_pool(pool: Pool) -> None:
    ratios, lines = drawn(pool, np.arange(POOL))
    line = lines.line(READ)
    numbers = {
        "coefficient": ratios.beta(READ),
        "slope": line.slope,
        "r": line.r,
        "median": ratios.quantiles(LEFT)["median"],
        "rank correlation": float(stats.spearmanr(*pool.dla.swapaxes(0, 1).reshape(2, -1)).statistic),
    }
    generator = np.random.default_rng(0)
    held = dict.fromkeys(numbers, 0)
    for _ in range(DRAWS):
        prompts = generator.integers(0, POOL, PROMPTS)
        of_ratios, of_lines = drawn(pool, prompts)
        line = of_lines.line(READ)
        sample = generator.permutation(PROMPTS * pool.dla.shape[-1])[:SAMPLE]
        intervals = {
            "coefficient": of_ratios.beta_interval(READ),
            "slope": (line.slope_low, line.slope_high),
            "r": (line.low, line.high),
            "median": of_ratios.median_interval(LEFT),
            "rank correlation": rank_interval(pool, prompts, sample),
        }
        for name, (low, high) in intervals.items():
            held[name] += low <= numbers[name] <= high
    coverage = {name: n / DRAWS for name, n in held.items()}
    assert all(0.92 <= share <= 0.98 for share in coverage.values()), coverage
