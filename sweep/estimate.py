"""What a sweep would cost, before it is run: shards from the plan, time from the arithmetic that each measure says it does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import total_costs
from erasure_sweep.sweep.plan import SCAN_STAGES, StagePlan, expected_stages, sketch_bytes, writer_blocks
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.staging import ModelStaging
from erasure_sweep.sweep.terminal.progress import Reporter
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.positions import count_positions
from erasure_sweep.workers.records import Numerics, Resolved, ShardTask

EFFICIENCY = 0.6
"""Of a large matrix product's speed, reached by the whole scan; seen on gelu-4l's and GPT-2 small's shapes."""

SMALL_STEPS_S = 0.01
"""Seconds of each prompt and layer whatever their size, which is what small models cost."""


class Estimate(NamedTuple):
    """Expected cost of one model."""

    model: str
    shards: int
    """Of the scan and of all attention paths behind it."""
    verify_shards: int
    writers_per_shard: int
    core_seconds: float
    memory_bytes: float
    store_bytes: float


def estimate(config: SweepConfig, reporter: Reporter) -> list[Estimate]:
    """Stage and plan as ``run`` would, and say what measuring would take.

    Args:
        config: of the sweep.
        reporter: hears what there is to say of models and corpus.

    Raises:
        SweepError: what ``run`` would refuse before measuring.
    """
    with closing(HelperProcess()) as background:
        models = ModelStaging(Run.of(config), background).finish(reporter)
        plans = [expected_stages(config, model, Numerics("cpu")) for model in models]
        measured = [_measured(config, stages) for stages in plans]
        work = [work_of(stages[0].model, tasks) for stages, tasks in zip(plans, measured, strict=True)]
        # Measures know what they cost, and importing them takes torch.
        costs = background.submit(total_costs, work).result()
    flops_per_s = _flops_per_s()
    return [
        _estimate(config, stages[0], tasks, cost, flops_per_s)
        for stages, tasks, cost in zip(plans, measured, costs, strict=True)
    ]


def _measured(config: SweepConfig, stages: list[StagePlan]) -> list[ShardTask]:
    """All shards of a model; verify alone stands on a scan that was measured before."""
    before = SCAN_STAGES if config.stage == "verify" else ()
    return [task for stage in stages for task in stage.tasks if stage.name not in before]


def work_of(model: Resolved, tasks: list[ShardTask]) -> list[tuple[str, ShardSize, int]]:
    """Stage and size of the shards, and how many are alike: those that differ in their prompts alone cost the same."""

    length = mean_length(model)

    def measured(task: ShardTask) -> int:
        return count_positions(length, task.positions, task.first_position)

    alike = Counter((task.stage, task.work, task.n_prompts, measured(task)) for task in tasks)
    return [
        (stage, ShardSize(work, model.architecture, n_prompts, length, positions), n)
        for (stage, work, n_prompts, positions), n in alike.items()
    ]


def _estimate(config: SweepConfig, scan: StagePlan, tasks: list[ShardTask], cost: Cost, flops_per_s: float) -> Estimate:
    model = scan.model
    scanned = sum(task.stage in SCAN_STAGES for task in tasks)
    flops = cost.flops + cost.passes * forward_flops(model)
    return Estimate(
        model=model.name,
        shards=scanned,
        verify_shards=len(tasks) - scanned,
        writers_per_shard=max(stop - start for start, stop in scan.writer_blocks),
        core_seconds=flops / (EFFICIENCY * flops_per_s) + SMALL_STEPS_S * cost.passes * model.architecture["n_layers"],
        memory_bytes=worker_memory(config, model.sketches, model.weights_bytes, model.seq_len, model.architecture),
        store_bytes=cost.stored_bytes,
    )


_ITEM_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
"""Of weights; what is added up stays float32 at least."""


def worker_memory(
    config: SweepConfig, sketches: tuple[int, ...], weights_bytes: int, seq_len: int, shape: Mapping[str, Any]
) -> float:
    """Bytes that a worker takes for a scan on a CPU: torch, the weights twice, a shard's state and its activations.

    Args:
        sketches: how many each writer needs.
        weights_bytes: what they take in float32.
        shape: the model's architecture.
    """
    widest = max(sum(sketches[start:stop]) for start, stop in writer_blocks(sketches, sketch_bytes(config)))
    heads = int(shape["n_heads"]) * int(shape["d_head"])  # in some families wider than the stream
    a_token = int(shape["n_layers"]) * (4 * int(shape["d_model"]) + 3 * heads) + 12 * int(shape["d_model"])
    item_bytes = _ITEM_BYTES[config.dtype]
    activations = max(4, item_bytes) * config.batch_on("cpu") * seq_len * a_token
    return 2**29 + 2 * (weights_bytes * item_bytes // 4) + sketch_bytes(config) * widest + activations


def forward_flops(model: Resolved) -> float:
    """Operations of a forward pass of one prompt."""
    shape, length = model.architecture, mean_length(model)
    return float(
        length * (2 * (model.n_params - _idle_params(shape)) + 4 * shape["n_layers"] * length * shape["d_model"])
    )


def _idle_params(shape: Mapping[str, Any]) -> int:
    """Weights of the experts that a token does not go through."""
    n_idle = int(shape.get("n_experts", 0)) - int(shape.get("experts_per_token", 0))
    return int(shape["n_layers"]) * n_idle * 3 * int(shape["d_model"]) * int(shape.get("d_mlp") or 0)


def mean_length(model: Resolved) -> int:
    """Tokens of a prompt, on average."""
    return max(2, round(model.n_tokens / model.n_prompts))


def _flops_per_s(size: int = 1024) -> float:
    """Speed of a float32 matrix product on one core of this machine."""
    a = np.ones((size, size), dtype=np.float32)
    a @ a
    start, cpu = time.perf_counter(), time.process_time()
    a @ a
    # A threaded BLAS spreads the product; processor time counts all its cores.
    elapsed = max(time.perf_counter() - start, time.process_time() - cpu)
    return 2.0 * size**3 / elapsed
