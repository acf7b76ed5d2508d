"""The plan: resolved models become shards with stable ids. Pure: no file, no clock, no machine is asked.

A shard is one block of prompts of one model, seen by one block of writers. Blocks of prompts are fixed by the config, so
the same sweep has the same shards on any number of workers; blocks of writers follow from the model's shape and a budget
for the dense state of one shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from sweep.config import RESULTS_VERSION, SweepConfig
from workers.records import Resolved, ShardTask, WriterBlock

STATE_BYTES = 512 * 2**20
SKETCH_BYTES = 4 * 3073
"""One sketch: a 32-bit count in each of the bins of ``workers.sketch``."""


class ModelPlan(NamedTuple):
    """All shards of one model, blocks of writers outermost: the order in which their states are merged."""

    model: Resolved
    tasks: tuple[ShardTask, ...]

    @property
    def writer_blocks(self) -> tuple[WriterBlock, ...]:
        """The distinct blocks of writers, in order."""
        return tuple(dict.fromkeys(task.writers for task in self.tasks))


def plan_scan(config: SweepConfig, model: Resolved, device: str) -> ModelPlan:
    """Shards of one model's scan.

    Args:
        device: kind of device that measures, ``cpu`` or ``cuda``; it decides the last digits, so it is part of the ids.
    """
    tasks = []
    for writers in blocks(model.n_writers, writers_per_block(model)):
        for prompts in blocks(model.n_prompts, config.block_prompts):
            result: dict[str, Any] = {
                "model_hash": model.hash,
                "first_prompt": prompts.start,
                "n_prompts": len(prompts),
                "writers": WriterBlock(writers.start, writers.stop),
                "positions": config.n_positions,
                "seed": config.seed,
                "batch": config.batch_on(device),
                "device": device,
                "dtype": config.dtype,
            }
            identity = {
                **result,
                "stage": config.stage,
                "corpus": model.corpus_fingerprint,
                "threads": config.cpus_per_worker,
                "results_version": RESULTS_VERSION,
            }
            tasks.append(ShardTask(id=digest(identity), weights=model.weights, tokens=model.tokens, **result))
    return ModelPlan(model, tuple(tasks))


def writers_per_block(model: Resolved) -> int:
    """How many writers fit into the budget of one shard's state; at least one."""
    return max(1, min(model.n_writers, STATE_BYTES // (SKETCH_BYTES * model.sketches_per_writer)))


def blocks(n: int, size: int) -> list[range]:
    """Consecutive ranges of at most ``size`` that cover ``range(n)``."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def digest(values: Mapping[str, Any]) -> str:
    """A stable hash of plain values: 32 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def sweep_id(config: SweepConfig) -> str:
    """Identity of a sweep: what determines its results, without models and resources."""
    return digest(config.protocol())
