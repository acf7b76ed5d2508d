"""What a sweep would cost, before it is run: shards from the plan, time from the arithmetic it does."""

from __future__ import annotations

import time
from contextlib import closing
from typing import NamedTuple

import numpy as np

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.plan import SKETCH_BYTES, ModelPlan, plan_scan, writers_per_block
from sweep.progress import SilentReporter
from sweep.staging import begin_staging, finish_staging

EFFICIENCY = 0.6
"""Of a large matrix product's speed, reached by the whole scan; seen on gelu-4l's and GPT-2 small's shapes."""

STORED_BYTES_PER_SKETCH = 350
"""Of one shard on disk, compressed, seen on the bundled models."""


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
    writers = writers_per_block(model)
    shape = model.architecture
    measured = model.n_prompts * (config.n_positions or model.seq_len)
    terms = model.n_writers + shape["n_layers"]
    forward = (
        model.n_prompts
        * model.seq_len
        * (2 * model.n_params + 4 * shape["n_layers"] * model.seq_len * shape["d_model"])
    )
    heads = 2 * shape["n_layers"] * shape["n_heads"] * shape["d_head"] * shape["d_model"]
    scan = measured * (heads * len(plan.writer_blocks) + 2 * model.n_writers * terms * shape["d_model"])
    # Counting one value takes about as long as 250 operations of a matrix product.
    counting = 250 * measured * model.n_writers * model.sketches_per_writer
    dense = SKETCH_BYTES * writers * model.sketches_per_writer
    activations = 4 * config.batch_on("cpu") * model.seq_len * shape["d_model"] * (4 * shape["n_layers"] + 12)
    return Estimate(
        model=model.name,
        shards=len(plan.tasks),
        writers_per_shard=writers,
        core_seconds=(forward * len(plan.writer_blocks) + scan + counting) / (EFFICIENCY * flops_per_s),
        memory_bytes=2**29 + 2 * model.weights_bytes + dense + activations,
        store_bytes=len(plan.tasks) * writers * model.sketches_per_writer * STORED_BYTES_PER_SKETCH,
    )


def _flops_per_s(size: int = 1024) -> float:
    """Speed of a float32 matrix product on one core of this machine."""
    a = np.ones((size, size), dtype=np.float32)
    a @ a
    start, cpu = time.perf_counter(), time.process_time()
    a @ a
    # A threaded BLAS spreads the product; processor time counts all its cores.
    elapsed = max(time.perf_counter() - start, time.process_time() - cpu)
    return 2.0 * size**3 / elapsed
