"""An audit beside a bare forward of the same tokens: what every component's effect and mediation cost on one short prompt.

The clean pass, a rerun of every component, who mediates, and all attention paths together; the means over the reference text,
which are computed once for a model, apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from erasure_sweep.workers.measures.audit.baselines import REFERENCE_TOKENS, WINDOW, Baseline, Reference, mean_outputs
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.audit.session import Session
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.benchmarks.scan import BARE
from tests.benchmarks.settings import GPT2_SMALL, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, interleave, ratio_row

SUBJECT = "audit"
TOKENS = 32
TARGETS = {GPT2_SMALL: 100.0}
"""Bare forwards that one prompt should cost at most, the reference text's apart."""


def measure_audit(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other: only one model is in memory."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield from _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Iterator[Row]:
    model, prompt = LeanModel(config, random_weights(config)), random_prompts(config, 1, min(TOKENS, settings.seq_len))
    ids = random_prompts(config, 1, REFERENCE_TOKENS)[0]
    reference = Reference(tuple(ids.tolist()), None)
    baseline = Baseline(model, "mean", reference, 0)
    baseline.means()
    question = Question(tuple(prompt[0].tolist()))
    cases = {
        BARE: partial(model.logits, prompt),
        "audit": lambda: Session(model, [question], baseline).effects(),
        "means": partial(mean_outputs, model, reference.windows(min(WINDOW, config.n_ctx))),
    }
    timings = interleave(cases, settings.rounds)
    bare, n = (f"{BARE} of {prompt.shape[1]} tokens", timings[BARE]), len(config.layout.writers)
    yield ratio_row(SUBJECT, shape, (f"one prompt, {n} components", timings["audit"]), bare, TARGETS.get(shape))
    yield ratio_row(SUBJECT, shape, (f"means over {REFERENCE_TOKENS} tokens, once a model", timings["means"]), bare)
