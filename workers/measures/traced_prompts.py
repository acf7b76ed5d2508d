"""A shard's prompts as the model has run over them: some at once, and each by itself in the trace that holds it.

Prompts of different lengths go through the model together, filled up behind their ends: attention is causal, so that
nothing of a prompt sees what stands behind it, and its part of the trace is cut to its own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.positions import count_positions, measured_positions, prompt_lengths
from erasure_sweep.workers.records import ShardTask


class TracedPrompt(NamedTuple):
    """One prompt of a shard."""

    trace: Trace
    """Of this prompt, and where all have one length of others as well."""
    row: int
    """Of the prompt in the trace."""
    corpus_prompt: int
    """Its index in the corpus."""
    tokens: Int[Tensor, "pos"]
    longest: int
    """The most tokens that a prompt of the corpus may have, as far as they are read."""


def traced_prompts(
    model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int, keep_resid: bool
) -> Iterator[TracedPrompt]:
    """Every prompt of a shard, ``batch`` of them in one forward pass.

    Args:
        prompts: the shard's, filled up with ``PADDING`` behind their ends.
        keep_resid: whether traces keep the stream.
    """
    chosen = chosen_positions(task, prompts)
    for start in range(0, len(prompts), batch):
        rows = range(start, min(start + batch, len(prompts)))
        yield from _traced(model, task, prompts, rows, chosen[rows.start : rows.stop], keep_resid)


def traced_as_partner(model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"]) -> TracedPrompt:
    """The first prompt of a shard once more, as the last one's partner: it needs no logits, and is measured at one position."""
    return next(_traced(model, task, prompts, range(1), [np.zeros(1, dtype=np.int64)], keep_resid=True))


def _traced(
    model: LeanModel,
    task: ShardTask,
    prompts: Int[Tensor, "prompt pos"],
    rows: range,
    chosen: list[Int64[np.ndarray, " _"]],
    keep_resid: bool,
) -> Iterator[TracedPrompt]:
    """One forward pass over some of a shard's prompts."""
    padded = prompts[rows.start : rows.stop]
    lengths = prompt_lengths(padded.numpy()).tolist()
    tokens = padded[:, : max(lengths)].clamp(min=0).to(model.device)  # which token fills up is of no consequence
    trace = model.trace(tokens, _together(chosen).to(model.device), keep_resid=keep_resid)
    alike = len({*lengths}) == 1
    for i, (row, n_tokens) in enumerate(zip(rows, lengths, strict=True)):
        own, index = (trace, i) if alike else (trace.of_prompt(i, n_tokens, len(chosen[i])), 0)
        yield TracedPrompt(own, index, task.first_prompt + row, tokens[i, :n_tokens], prompts.shape[1])


def _together(chosen: list[Int64[np.ndarray, " _"]]) -> Int[Tensor, "prompt measured"]:
    """Positions of some prompts, with zeros behind those of prompts that have fewer."""
    most = max(map(len, chosen))
    return torch.from_numpy(np.stack([np.pad(own, (0, most - len(own))) for own in chosen]))


def chosen_positions(task: ShardTask, prompts: Int[Tensor, "prompt pos"]) -> list[Int64[np.ndarray, " _"]]:
    """The measured positions of each of a shard's prompts; all where it has no more than are asked for."""
    first, lengths = task.first_position, prompt_lengths(prompts.numpy()).tolist()
    asked = [count_positions(length, task.positions, first) for length in lengths]
    return [
        measured_positions(task.seed, task.first_prompt + row, 1, length, n, first)[0]
        for row, (length, n) in enumerate(zip(lengths, asked, strict=True))
    ]


def first_source(task: ShardTask) -> int:
    """The first position at which a writer's output is a source, and may be measured."""
    return 0 if task.first_position else 1
