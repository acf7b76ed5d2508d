"""What a sweep would cost, before it is run: shards from the plan, time from the arithmetic it does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.execution.helper_process import Background
from erasure_sweep.sweep.plan import StagePlan, expected_stages, sketch_bytes, writer_blocks
from erasure_sweep.sweep.progress import SilentReporter
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.staging import Staging
from erasure_sweep.workers.records import AdversarialWork, GroupWork, Resolved, ShardTask, TrustWork

EFFICIENCY = 0.6
"""Of a large matrix product's speed, reached by the whole scan; seen on gelu-4l's and GPT-2 small's shapes."""

STORED_BYTES_PER_SKETCH = 350
"""Of one shard on disk, compressed, seen on the bundled models."""

STORED_BYTES_PER_TARGET = 25_000
STORED_BYTES_PER_TRIAL = 16
"""The same of a shard of verify, the latter for each place and donor."""

SMALL_STEPS_S = 0.01
"""Seconds of each prompt and layer whatever their size, which is what small models cost."""


RERUNS = 6
"""Forward passes that a target takes on each of verify's prompts: two patches, three removals, resampling."""


class Estimate(NamedTuple):
    """Expected cost of one model."""

    model: str
    shards: int
    """Of the scan."""
    verify_shards: int
    writers_per_shard: int
    core_seconds: float
    memory_bytes: float
    store_bytes: float


def estimate(config: SweepConfig) -> list[Estimate]:
    """Stage and plan as ``run`` would, and say what measuring would take.

    Raises:
        SweepError: what ``run`` would refuse before measuring.
    """
    with closing(Background()) as background:
        models = Staging(Run.of(config), background).finish(SilentReporter())
    flops_per_s = _flops_per_s()
    return [_estimate(config, expected_stages(config, model, "cpu"), flops_per_s) for model in models]


def _estimate(config: SweepConfig, stages: list[StagePlan], flops_per_s: float) -> Estimate:
    plan, *later = stages
    model = plan.model
    n_blocks = len(plan.writer_blocks)
    # Verify alone stands on a scan that was measured before.
    scanned = plan.tasks if config.stage != "verify" else ()
    verified = [task for stage in later for task in stage.tasks]
    passes = sum(map(_passes, verified))
    small_steps = (model.n_prompts * n_blocks if scanned else 0) + passes
    flops = (sum(_flops(config, model, n_blocks)) if scanned else 0.0) + passes * _forward_flops(model)
    return Estimate(
        model=model.name,
        shards=len(scanned),
        verify_shards=len(verified),
        writers_per_shard=max(stop - start for start, stop in plan.writer_blocks),
        core_seconds=flops / (EFFICIENCY * flops_per_s) + SMALL_STEPS_S * small_steps * model.architecture["n_layers"],
        memory_bytes=worker_memory(config, model.sketches, model.weights_bytes, model.seq_len, model.architecture),
        store_bytes=len(scanned) * sum(model.sketches) * STORED_BYTES_PER_SKETCH / n_blocks
        + sum(map(_stored_bytes, verified)),
    )


def worker_memory(
    config: SweepConfig, sketches: tuple[int, ...], weights_bytes: int, seq_len: int, shape: Mapping[str, Any]
) -> float:
    """Bytes that a worker takes for a scan on a CPU: torch, the weights twice, a shard's state and its activations.

    Args:
        sketches: how many each writer needs.
        shape: the model's ``n_layers`` and ``d_model``.
    """
    widest = max(sum(sketches[start:stop]) for start, stop in writer_blocks(sketches, sketch_bytes(config)))
    activations = 4 * config.batch_on("cpu") * seq_len * int(shape["d_model"]) * (7 * int(shape["n_layers"]) + 12)
    return 2**29 + 2 * weights_bytes + sketch_bytes(config) * widest + activations


def _stored_bytes(task: ShardTask) -> float:
    """What a shard of verify takes on disk; those of ``trust`` are next to nothing."""
    if isinstance(task.work, AdversarialWork):
        return STORED_BYTES_PER_TRIAL * len(task.work.places) * len(task.work.donors)
    return STORED_BYTES_PER_TARGET * len(task.work.targets) if isinstance(task.work, GroupWork) else 0.0


def _passes(task: ShardTask) -> float:
    """Forward passes of a shard of verify; one that begins behind a writer counts as half of one."""
    if isinstance(task.work, GroupWork):
        return task.n_prompts * (1 + RERUNS * len(task.work.targets) / 2)
    if isinstance(task.work, TrustWork):
        return task.n_prompts * (1 + (task.work.writers.stop - task.work.writers.start) / 2)
    return len(task.work.donors) if isinstance(task.work, AdversarialWork) else 0.0


def _forward_flops(model: Resolved) -> float:
    """Operations of a forward pass of one prompt."""
    shape = model.architecture
    return float(model.seq_len * (2 * model.n_params + 4 * shape["n_layers"] * model.seq_len * shape["d_model"]))


def _flops(config: SweepConfig, model: Resolved, n_blocks: int) -> tuple[float, ...]:
    """Operations of the forward passes, of the products of terms, of what later heads read, and of counting."""
    shape, seq_len = model.architecture, model.seq_len
    n_layers, n_heads, d_head, d_model = (shape[key] for key in ("n_layers", "n_heads", "d_head", "d_model"))
    n_writers = len(model.sketches)
    measured = model.n_prompts * (config.n_positions or seq_len)
    pairs = n_writers * n_layers * n_heads / 2
    forward = model.n_prompts * _forward_flops(model)
    unembedding = 2 * measured * d_model * shape["d_vocab"]
    products = (
        measured * d_model * (2 * n_layers * n_heads * d_head * n_blocks + 2 * n_writers * (n_writers + n_layers))
    )
    reading = measured * pairs * (seq_len * d_head + 4 * d_head**2)
    # Counting one value takes about as long as 250 operations of a matrix product.
    counting = 250 * measured * sum(model.sketches)
    return (forward + unembedding) * n_blocks, products, reading, counting


def _flops_per_s(size: int = 1024) -> float:
    """Speed of a float32 matrix product on one core of this machine."""
    a = np.ones((size, size), dtype=np.float32)
    a @ a
    start, cpu = time.perf_counter(), time.process_time()
    a @ a
    # A threaded BLAS spreads the product; processor time counts all its cores.
    elapsed = max(time.perf_counter() - start, time.process_time() - cpu)
    return 2.0 * size**3 / elapsed
