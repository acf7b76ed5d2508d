"""All attention paths beside a bare forward: what following every writer costs in units of running the model once.

Of each prompt: the trace that the stage makes for itself, then every writer carried through all later attention; once for
prompts on which the writers alone are followed, and once for those on which what varies of them and what they write at
position 0 are as well. A sweep does the latter on the first 16 of 64 prompts by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from erasure_sweep.workers.measures.scan.paths import PathReader
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.positions import measured_positions
from erasure_sweep.workers.records import PathsWork, WriterBlock
from tests.benchmarks.scan import BARE
from tests.benchmarks.settings import GELU_4L, GPT2_SMALL, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, interleave, ratio_row

SUBJECT = "paths"
ALL = "all positions"
TARGETS = {GELU_4L: 2.0, GPT2_SMALL: 12.0}
"""Further bare forwards that following every writer should cost at most, whatever is measured of a prompt."""


def measure_paths(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other: only one model is in memory."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield from _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Iterator[Row]:
    model, prompt = LeanModel(config, random_weights(config)), random_prompts(config, 1, settings.seq_len)
    rounds = min(2, settings.rounds)
    for measured, n_positions in ((ALL, None), (f"{settings.n_positions} positions", settings.n_positions)):
        positions = torch.from_numpy(measured_positions(0, 0, 1, settings.seq_len, n_positions))
        trace = partial(model.trace, prompt, positions)
        cases = {BARE: partial(model.logits, prompt), "trace": trace}
        for every in (False, True):
            cases["families" if every else "plain"] = partial(_follow, model, trace, every)
        timings = interleave(cases, rounds)
        target, bare = TARGETS.get(shape), (BARE, timings[BARE])
        yield ratio_row(
            SUBJECT, shape, (f"every writer, {measured}, its trace included", timings["plain"]), bare, target
        )
        label = f"the same with what varies and position 0, {measured}"
        yield ratio_row(SUBJECT, shape, (label, timings["families"]), bare)
        yield ratio_row(SUBJECT, shape, (f"the trace of these, {measured}", timings["trace"]), bare)


@torch.inference_mode()
def _follow(model: LeanModel, trace: Callable[[], Trace], every_family: bool) -> None:
    layout, d_model = model.config.layout, model.config.d_model
    work = PathsWork(WriterBlock(0, len(layout.writers)), every_family)
    PathReader(model, work, torch.zeros(len(layout.terms), d_model), 1).read(trace(), 0)
