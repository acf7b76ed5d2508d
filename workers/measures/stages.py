"""What a shard measures, by its stage: from a model, a task and the tokens to the states of one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.measures.interventions.prompt_view import positions_of
from erasure_sweep.workers.measures.registry import SCAN
from erasure_sweep.workers.measures.scan.products import ProductReader, PromptProducts
from erasure_sweep.workers.measures.verify.adversarial import measure_adversarial
from erasure_sweep.workers.measures.verify.group_stage import measure_group
from erasure_sweep.workers.measures.verify.trust import measure_trust
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanWork, ShardTask, State

Measurement = Callable[[LeanModel, ShardTask, Integer[np.ndarray, "prompt pos"], int], dict[str, State]]
"""Measures one shard, given the tokens of the whole corpus and how many prompts go through a forward pass at once."""


def measure_scan(model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int) -> dict[str, State]:
    """States of one shard of the scan, by measure."""
    assert isinstance(task.work, ScanWork)
    reader = ProductReader(model, task.work.writers, task.work.options)
    accumulators = {name: measure.start(reader) for name, measure in SCAN.items()}
    chosen = positions_of(task, task.first_prompt, *prompts.shape)
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch].to(model.device)
        positions = None if chosen is None else torch.from_numpy(chosen[start : start + batch]).to(model.device)
        for products in _read(reader, rows, positions, task.first_prompt + start):
            for accumulator in accumulators.values():
                accumulator.update(products)
            del products  # or it would stand beside the next ones
    return {name: accumulator.export() for name, accumulator in accumulators.items()}


def _read(reader: ProductReader, rows: Tensor, positions: Tensor | None, first_prompt: int) -> Iterator[PromptProducts]:
    """Products of a batch's prompts, one at a time; their trace goes with the batch."""
    trace = reader.model.trace(rows, positions, keep_resid=reader.options.ln == "recompute")
    for prompt in range(len(rows)):
        yield reader.read(trace, prompt, first_prompt + prompt)


def _on_block(
    measure: Callable[[LeanModel, ShardTask, Int[Tensor, "prompt pos"], int], dict[str, State]],
    model: LeanModel,
    task: ShardTask,
    tokens: Integer[np.ndarray, "prompt pos"],
    batch: int,
) -> dict[str, State]:
    """Measure the shard's own prompts."""
    block = tokens[task.first_prompt : task.first_prompt + task.n_prompts]
    if len(block) < task.n_prompts:
        raise DataError(f"{task.tokens} ends before prompt {task.first_prompt + task.n_prompts}")
    return measure(model, task, torch.from_numpy(block.astype(np.int64)), batch)


STAGES: Mapping[str, Measurement] = {
    "scan": partial(_on_block, measure_scan),
    "group": partial(_on_block, measure_group),
    "trust": partial(_on_block, measure_trust),
    "adversarial": measure_adversarial,
}
