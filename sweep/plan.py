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
from workers.records import Resolved, ScanOptions, ShardTask, WriterBlock

STATE_BYTES = 512 * 2**20
N_BINS = 3073
"""Bins of one sketch of ``workers.sketch``."""
SAMPLE = 1000
"""Tokens that rank correlations are from, at most; fewer where a model has so many pairs that they would not fit."""
SAMPLED_VALUES = 2**25


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
    options = scan_options(config, model)
    tasks = []
    for writers in writer_blocks(model.sketches, sketch_bytes(config)):
        for prompts in blocks(model.n_prompts, config.block_prompts):
            result: dict[str, Any] = {
                "model_hash": model.hash,
                "first_prompt": prompts.start,
                "n_prompts": len(prompts),
                "writers": writers,
                "positions": config.n_positions,
                "options": options,
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


def scan_options(config: SweepConfig, model: Resolved) -> ScanOptions:
    """What workers are told beside model and tokens: among it, which tokens are sampled for rank correlations.

    A third more than the sample is drawn, so that the lowest hashes among them are almost surely as many as it should have.
    """
    measured = config.n_positions or model.seq_len
    sample = min(SAMPLE, max(20, SAMPLED_VALUES // sum(model.sketches)))
    drawn = min(1.0, (1.33 * sample + 20) / (model.n_prompts * measured))
    below = 2**64 if drawn == 1.0 else int(drawn * 2**64)
    return ScanOptions(config.ln, config.groups, config.seed, below, sample, config.block_prompts * measured)


def sketch_bytes(config: SweepConfig) -> int:
    """Size of one dense sketch: counts take two bytes where a shard has few enough tokens."""
    return (2 if config.block_prompts * (config.n_positions or config.seq_len) < 2**15 else 4) * N_BINS


def writer_blocks(sketches: tuple[int, ...], bytes_per_sketch: int) -> list[WriterBlock]:
    """Consecutive writers whose sketches fit into the budget of one shard's state; at least one in each block."""
    found, start, size = [], 0, 0
    for writer, needed in enumerate(sketches):
        size += needed * bytes_per_sketch
        if size > STATE_BYTES and writer > start:
            found.append(WriterBlock(start, writer))
            start, size = writer, needed * bytes_per_sketch
    return [*found, WriterBlock(start, len(sketches))]


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
