"""The scans beside a bare forward: what a scan costs in units of running the model once.

A scan is the forward that keeps what measures read, and their updates for every writer. The bare forward is the same lean
model with fused attention, unembedding included, without anything kept. Once per shard the state is exported and encoded
as well; that is a row of its own, spread over a shard's prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from tests.benchmarks.settings import GELU_4L, GPT2_SMALL, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, interleave, ratio_row, scaled
from workers.encoding import encode_states
from workers.measures.base import Accumulator, Measure
from workers.measures.projection import Projection
from workers.positions import measured_positions
from workers.records import WriterBlock
from workers.trace import LeanModel, ModelConfig

SUBJECT = "scan"
BARE = "bare forward with logits"
SCANS: dict[str, tuple[Measure, ...]] = {"projection scan": (Projection(),)}
"""Sets of measures that are timed; another scan is one more line here."""

TARGETS = {
    (GELU_4L, "projection scan, all positions"): 1.0,
    (GPT2_SMALL, "projection scan, all positions"): 1.6,
    (GPT2_SMALL, "projection scan, 128 positions"): 1.0,
}
"""Bare forwards that a scan should cost at most."""

SHARD_PROMPTS = 8


class Scan:
    """A scan of one prompt at a time into one shard's state.

    Args:
        model: the model. measures: what is measured. n_positions: measured positions of a prompt; None for all.
    """

    def __init__(self, model: LeanModel, measures: tuple[Measure, ...], n_positions: int | None = None) -> None:
        self._model = model
        self._n_positions = n_positions
        block = WriterBlock(0, len(model.config.layout.writers))
        self.accumulators: dict[str, Accumulator] = {m.name: m.start(model, block) for m in measures}

    def update(self, prompts: Tensor) -> None:
        """Take in prompts."""
        trace = self._model.trace(prompts, self._positions(prompts))
        for accumulator in self.accumulators.values():
            accumulator.update(trace)

    def _positions(self, prompts: Tensor) -> Tensor | None:
        if self._n_positions is None:
            return None
        n_prompts, seq_len = prompts.shape
        return torch.from_numpy(measured_positions(0, 0, n_prompts, seq_len, self._n_positions))

    def finish(self) -> bytes:
        """The shard's state as a worker returns it."""
        return encode_states({name: accumulator.export() for name, accumulator in self.accumulators.items()})


def measure_scans(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other: only one model is in memory."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield from _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Iterator[Row]:
    model = LeanModel(config, random_weights(config))
    prompt = random_prompts(config, 1, settings.seq_len)
    scans = {
        f"{name}, {'all' if n is None else n} positions": Scan(model, measures, n)
        for name, measures in SCANS.items()
        for n in (None, settings.n_positions)
    }
    bare = partial(model.logits, prompt)
    timings = interleave(
        {BARE: bare, **{label: partial(scan.update, prompt) for label, scan in scans.items()}}, settings.rounds
    )
    for label in scans:
        yield ratio_row(SUBJECT, shape, (label, timings[label]), (BARE, timings[BARE]), TARGETS.get((shape, label)))
    for label, scan in scans.items():
        if label.endswith("all positions"):
            yield _finish_row(shape, label, scan, bare, min(2, settings.rounds))


def _finish_row(shape: str, label: str, scan: Scan, bare: Callable[[], object], rounds: int) -> Row:
    """Exporting and encoding a shard's state, a prompt's share of it."""
    timings = interleave({BARE: bare, "finish": scan.finish}, rounds)
    measured = f"{label}: a prompt's share of exporting a shard of {SHARD_PROMPTS}"
    share = scaled(timings["finish"], 1 / SHARD_PROMPTS)
    return ratio_row(SUBJECT, shape, (measured, share), (BARE, timings[BARE]))
