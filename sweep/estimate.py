"""What a sweep would cost, before it is run: shards from the plan, time from the arithmetic it does."""

from __future__ import annotations

import time
from contextlib import closing
from typing import NamedTuple

import numpy as np

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.plan import ModelPlan, plan_scan, sketch_bytes
from sweep.progress import SilentReporter
from sweep.staging import begin_staging, finish_staging
from workers.records import Resolved

EFFICIENCY = 0.6
"""Of a large matrix product's speed, reached by the whole scan; seen on gelu-4l's and GPT-2 small's shapes."""

STORED_BYTES_PER_SKETCH = 350
"""Of one shard on disk, compressed, seen on the bundled models."""


SMALL_STEPS_S = 0.01
"""Seconds of each prompt and layer whatever their size, which is what small models cost."""


class Estimate(NamedTuple):
    """Expected cost of one model's scan."""

    model: str
    shards: int
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
        models = finish_staging(config, begin_staging(config, background), SilentReporter())
    flops_per_s = _flops_per_s()
    return [_estimate(config, plan_scan(config, model, "cpu"), flops_per_s) for model in models]


def _estimate(config: SweepConfig, plan: ModelPlan, flops_per_s: float) -> Estimate:
    model = plan.model
    n_blocks = len(plan.writer_blocks)
    widest = max(sum(model.sketches[start:stop]) for start, stop in plan.writer_blocks)
    activations = 4 * config.batch_on("cpu") * model.seq_len * model.architecture["d_model"]
    return Estimate(
        model=model.name,
        shards=len(plan.tasks),
        writers_per_shard=max(stop - start for start, stop in plan.writer_blocks),
        core_seconds=sum(_flops(config, model, n_blocks)) / (EFFICIENCY * flops_per_s)
        + SMALL_STEPS_S * model.n_prompts * model.architecture["n_layers"] * n_blocks,
        memory_bytes=2**29
        + 2 * model.weights_bytes
        + sketch_bytes(config) * widest
        + activations * (7 * model.architecture["n_layers"] + 12),
        store_bytes=len(plan.tasks) * sum(model.sketches) * STORED_BYTES_PER_SKETCH / n_blocks,
    )


def _flops(config: SweepConfig, model: Resolved, n_blocks: int) -> tuple[float, ...]:
    """Operations of the forward passes, of the products of terms, of what later heads read, and of counting."""
    shape, seq_len = model.architecture, model.seq_len
    n_layers, n_heads, d_head, d_model = (shape[key] for key in ("n_layers", "n_heads", "d_head", "d_model"))
    n_writers = len(model.sketches)
    measured = model.n_prompts * (config.n_positions or seq_len)
    pairs = n_writers * n_layers * n_heads / 2
    forward = model.n_prompts * seq_len * (2 * model.n_params + 4 * n_layers * seq_len * d_model)
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
