"""What a shard measures, by its stage: from a model, a task and the corpus' tokens to the states of one shard.

A stage makes something once for a shard, then something of each prompt; every measure of the stage takes that in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.measures.interventions.place_runs import place_runs
from erasure_sweep.workers.measures.interventions.placebos import Placebos
from erasure_sweep.workers.measures.interventions.prompt_view import lone_views, views
from erasure_sweep.workers.measures.interventions.verified_prompt import by_writer
from erasure_sweep.workers.measures.measure import Block
from erasure_sweep.workers.measures.registry import measures
from erasure_sweep.workers.measures.scan.paths import PathReader
from erasure_sweep.workers.measures.scan.products import ProductReader
from erasure_sweep.workers.measures.traced_prompts import first_source, traced_prompts
from erasure_sweep.workers.measures.verify.null_shares import null_prompts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    GroupWork,
    PathsWork,
    PlaceboWork,
    ScanWork,
    ShardTask,
    State,
    TrustWork,
)


class OpenShard(NamedTuple):
    """A shard, ready to be measured."""

    shard: Any
    """What measures start from."""
    products: Iterator[Any]
    """What they take in, one after the other."""


Tokens = Integer[np.ndarray, "corpus_prompt pos"]
"""Of the whole corpus."""
Means = Float[np.ndarray, "term d_model"]


class Staged(NamedTuple):
    """What earlier stages found and later ones start from."""

    means: Float[Tensor, "term d_model"] | None = None
    """Of the model's terms over the scan, on the model's device."""
    placebos: Placebos | None = None
    """Of the verified writers."""


@torch.inference_mode()
def measure_shard(
    model: LeanModel,
    task: ShardTask,
    tokens: Tokens,
    batch: int,
    means: Means | None = None,
    placebos: Placebos | None = None,
) -> dict[str, State]:
    """States of one shard, by measure.

    Args:
        batch: how many prompts go through a forward pass at once.
        means: of the model's terms over the scan; none in the scan itself.
        placebos: of the verified writers, for the stages that have nulls.
    """
    on_device = None if means is None else torch.from_numpy(means).to(model.device, model.dtype)
    opened = STAGES[task.stage](model, task, tokens, batch, Staged(on_device, placebos))
    accumulators = {measure.name: measure.start(opened.shard) for measure in measures(task.stage)}
    for products in opened.products:
        for accumulator in accumulators.values():
            accumulator.update(products)
        del products  # or it would stand beside the next ones
    return {name: accumulator.export() for name, accumulator in accumulators.items()}


def open_scan(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """Products of every prompt's terms."""
    assert isinstance(task.work, ScanWork)
    options = task.work.options
    reader = ProductReader(model, task.work.writers, options, first_source(task))
    traces = _traces(model, task, own_prompts(task, tokens), batch, keep_resid=options.ln == "recompute")
    return OpenShard(reader, starmap(reader.read, traces))


def open_paths(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """Every writer carried through all later attention of every prompt."""
    assert isinstance(task.work, PathsWork) and staged.means is not None
    reader = PathReader(model, task.work, staged.means, first_source(task))
    traces = _traces(model, task, own_prompts(task, tokens), batch)
    return OpenShard(reader, starmap(lambda trace, prompt, _: reader.read(trace, prompt), traces))


def _traces(
    model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int, keep_resid: bool = False
) -> Iterator[tuple[Trace, int, int]]:
    """Every prompt of a shard: the trace that holds it, its index there and in the corpus."""
    for trace, row, corpus_prompt, _, _ in traced_prompts(model, task, prompts, batch, keep_resid):
        yield trace, row, corpus_prompt
        del trace  # or it would stand beside the next one


def own_prompts(task: ShardTask, tokens: Tokens) -> Int[Tensor, "prompt pos"]:
    """The shard's own prompts."""
    block = tokens[task.first_prompt : task.first_prompt + task.n_prompts]
    if len(block) < task.n_prompts:
        raise DataError(f"{task.tokens} ends before prompt {task.first_prompt + task.n_prompts}")
    return torch.from_numpy(block.astype(np.int64))


def open_covariance(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """Prompts of the scan, for the stream in a few states."""
    assert isinstance(task.work, CovarianceWork)
    return OpenShard(Block(model, task.work), lone_views(model, task, own_prompts(task, tokens), batch))


def open_placebo(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """Prompts of the scan, verified writer by verified writer, with what stands in its place."""
    work = task.work
    assert isinstance(work, PlaceboWork) and staged.placebos is not None
    prompts = lone_views(model, task, own_prompts(task, tokens), batch)
    return OpenShard(Block(model, work), null_prompts(prompts, work, staged.placebos))


def open_group(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """Every prompt, verified writer by verified writer."""
    work = task.work
    assert isinstance(work, GroupWork) and staged.placebos is not None
    prompts = views(model, task, own_prompts(task, tokens), batch)
    return OpenShard(Block(model, work, staged.means), by_writer(prompts, work, staged.placebos))


def open_trust(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """The beginning of every prompt, with its partner; of one that is too short for so many positions, all."""
    assert isinstance(task.work, TrustWork)
    prompts = own_prompts(task, tokens)[:, : task.work.tokens]
    return OpenShard(Block(model, task.work, staged.means), views(model, task, prompts, batch))


def open_adversarial(model: LeanModel, task: ShardTask, tokens: Tokens, batch: int, staged: Staged) -> OpenShard:
    """The runs at the places, then those of the donors."""
    assert isinstance(task.work, AdversarialWork)
    runs = place_runs(model, task.work, tokens, batch, first_source(task), staged.means)
    return OpenShard(Block(model, task.work, staged.means), runs)


Open = Callable[[LeanModel, ShardTask, Tokens, int, Staged], OpenShard]
STAGES: Mapping[str, Open] = {
    "scan": open_scan,
    "paths": open_paths,
    "covariance": open_covariance,
    "placebo": open_placebo,
    "group": open_group,
    "trust": open_trust,
    "adversarial": open_adversarial,
}
