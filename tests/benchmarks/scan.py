"""The scan beside a bare forward: what a scan costs in units of running the model once.

A scan is the forward that keeps what measures read, the products and V-composed parts of every writer, and every measure's
update. The bare forward is the same lean model with fused attention, unembedding included, without anything kept. What a
scan pays less often has rows of its own: the composition matrices once for each model that a worker holds, export and
encoding of the state once for each shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from erasure_sweep.workers.measures.registry import measures
from erasure_sweep.workers.measures.scan.composition import composition
from erasure_sweep.workers.measures.scan.products import ProductReader
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import measured_positions
from erasure_sweep.workers.records import ScanOptions, WriterBlock
from erasure_sweep.workers.storage.states import encode_states
from tests.benchmarks.settings import GELU_4L, GPT2_SMALL, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, interleave, ratio_row, scaled

SUBJECT = "scan"
BARE = "bare forward with logits"
ALL = "whole scan, all positions"

TARGETS = {
    (GELU_4L, ALL): 2.0,
    (GELU_4L, "whole scan, 128 positions"): 1.5,
    (GPT2_SMALL, ALL): 6.0,
    (GPT2_SMALL, "whole scan, 128 positions"): 2.5,
}
"""Bare forwards that a scan should cost at most."""

SHARD_PROMPTS = 8
SAMPLED = 1 / 50
"""Share of the tokens that are kept one by one for rank correlations, about that of a sweep over 64 prompts of 1,024."""


class Scan:
    """A scan of one prompt at a time into one shard's state.

    Args:
        model: the model. seq_len: of its prompts. n_positions: measured positions of a prompt; None for all.
    """

    def __init__(self, model: LeanModel, seq_len: int, n_positions: int | None = None) -> None:
        self._model = model
        self._n_positions = n_positions
        options = ScanOptions(sample_below=int(2**64 * SAMPLED), shard_tokens=SHARD_PROMPTS * (n_positions or seq_len))
        self.reader = ProductReader(model, WriterBlock(0, len(model.config.layout.writers)), options)
        self.accumulators = {measure.name: measure.start(self.reader) for measure in measures("scan")}

    def update(self, prompts: Tensor) -> None:
        """Take in prompts."""
        trace = self._model.trace(prompts, self._positions(prompts))
        for prompt in range(len(prompts)):
            products = self.reader.read(trace, prompt, prompt)
            for accumulator in self.accumulators.values():
                accumulator.update(products)

    def _positions(self, prompts: Tensor) -> Tensor | None:
        if self._n_positions is None:
            return None
        n_prompts, seq_len = prompts.shape
        return torch.from_numpy(measured_positions(0, 0, n_prompts, seq_len, self._n_positions))

    def finish(self) -> bytes:
        """The shard's state as a worker returns it."""
        return encode_states({name: each.export() for name, each in self.accumulators.items()}, "scan")


def measure_scans(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other: only one model is in memory."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield from _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Iterator[Row]:
    model = LeanModel(config, random_weights(config))
    prompt = random_prompts(config, 1, settings.seq_len)
    some = f"whole scan, {settings.n_positions} positions"
    scans = {ALL: Scan(model, settings.seq_len), some: Scan(model, settings.seq_len, settings.n_positions)}
    bare = partial(model.logits, prompt)
    # The round that is not timed computes the composition matrices.
    timings = interleave(
        {BARE: bare, **{label: partial(scan.update, prompt) for label, scan in scans.items()}}, settings.rounds
    )
    for label in scans:
        yield ratio_row(SUBJECT, shape, (label, timings[label]), (BARE, timings[BARE]), TARGETS.get((shape, label)))
    yield from _once_rows(shape, model, scans[ALL], bare, min(2, settings.rounds))


def _once_rows(shape: str, model: LeanModel, scan: Scan, bare: Callable[[], object], rounds: int) -> Iterator[Row]:
    """What is paid once for each model, and once for each shard."""
    cases = {BARE: bare, "compositions": partial(compute_compositions, model), "finish": scan.finish}
    timings = interleave(cases, rounds)
    measured = "composition matrices, once for each model"
    row = ratio_row(SUBJECT, shape, (measured, timings["compositions"]), (BARE, timings[BARE]))
    row.details["bytes"] = sum(matrices.nbytes for matrices in model.compositions.values())
    yield row
    share = scaled(timings["finish"], 1 / SHARD_PROMPTS)
    measured = f"{ALL}: a prompt's share of exporting a shard of {SHARD_PROMPTS}"
    yield ratio_row(SUBJECT, shape, (measured, share), (BARE, timings[BARE]))


@torch.inference_mode()
def compute_compositions(model: LeanModel) -> None:
    """Compute a model's composition matrices anew, in the order in which a scan meets them."""
    model.compositions.clear()
    for layer in range(model.config.n_layers):
        for source in range(layer):
            composition(model, source, layer)
