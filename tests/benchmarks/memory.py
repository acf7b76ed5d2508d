"""Peak memory of a shard above the loaded model, for real shapes, and for few and for many prompts: it should not grow.

One shard, as a run would plan it and forward it in batches, all positions measured, in a process of its own for each figure:
of the scan, and of verify's substages that read whole blocks of prompts. Few prompts of a scan beside many once with the C
library's allocator as it comes, which keeps freed blocks and whose peak wanders as they fragment, and once with large blocks
given back as soon as they are freed (glibc's MALLOC_MMAP_THRESHOLD_): what is then left is what is held at a time. The peak
of a scan holds the model's composition matrices, which the shard computes and its worker keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.sweep.plan import layout_of, plan_group, plan_scan, plan_trust
from erasure_sweep.workers.measures.interventions.placebos import states_holding
from erasure_sweep.workers.measures.registry import count_sketches
from erasure_sweep.workers.measures.verify.null_shares import nulls_of
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import (
    NullErasers,
    Nulls,
    Numerics,
    Resolved,
    ScanOptions,
    ScanWork,
    ShardTask,
    Target,
    WriterBlock,
)
from erasure_sweep.workers.storage.staged_arrays import write_array
from tests.benchmarks.probe import run_probe
from tests.benchmarks.settings import GELU_4L, GPT2_SMALL, Settings, random_prompts, stage_random
from tests.benchmarks.timing import Row, spread
from tests.benchmarks.verify import verified_targets

SUBJECT = "memory"
MIB = 2**20
TARGETS = {GELU_4L: 2048.0, GPT2_SMALL: 4096.0}
"""MiB that a shard should hold at most."""
SHARD_PROMPTS = 8
ALLOCATORS: dict[str, dict[str, str]] = {
    "allocator as it comes": {},
    "freed blocks given back": {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},
}


def measure_memory(settings: Settings) -> Iterator[Row]:
    """Rows for each shape, then one for each number of prompts and one for the largest beside the smallest."""
    for shape, config in settings.shapes.items():
        with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
            model = stage(config, settings.seq_len, SHARD_PROMPTS, Path(folder))
            for name, task in shard_tasks(model, whole=shape == settings.verify_shape).items():
                found = run_probe("memory", memory_request(task, settings.threads), Path(folder), settings.threads)
                measured = f"{name}: {SHARD_PROMPTS} prompts of {settings.seq_len}, {task.batch} in a forward"
                yield _row(shape, measured, found, TARGETS.get(shape))
    yield from _few_and_many(settings)


def _few_and_many(settings: Settings) -> Iterator[Row]:
    config, seq_len = settings.shapes[settings.memory_shape], settings.memory_seq_len
    shape = f"{settings.memory_shape}, scan of prompts of {seq_len}"
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        model = stage(config, seq_len, max(settings.memory_prompts), Path(folder))
        for allocator, environment in ALLOCATORS.items():
            found = {}
            for n_prompts in settings.memory_prompts:
                request = memory_request(scan_task(model, n_prompts), settings.threads)
                found[n_prompts] = run_probe("memory", request, Path(folder), settings.threads, environment)
                yield _row(shape, f"{n_prompts} prompts, {allocator}", found[n_prompts])
            few, many = min(found), max(found)
            growth = found[many]["above_bytes"] / found[few]["above_bytes"]
            yield Row(SUBJECT, shape, f"{many} prompts, {allocator}", "×", spread([growth]), f"{few} prompts")


def stage(config: ModelConfig, seq_len: int, n_prompts: int, folder: Path) -> Resolved:
    """Write a random model and its prompts to a folder."""
    weights, tokens = folder / "models" / "model.safetensors", folder / "tokens.npy"
    weights.parent.mkdir()
    model_hash = stage_random(config, weights)
    np.save(tokens, random_prompts(config, n_prompts, seq_len).numpy().astype(np.int32))
    return Resolved(
        name="random",
        spec="random",
        hash=model_hash,
        weights=str(weights),
        weights_bytes=weights.stat().st_size,
        architecture=config.to_json(),
        n_params=config.n_params,
        sketches=count_sketches(config.layout, ScanOptions()),
        tokens=str(tokens),
        corpus_fingerprint="random",
        corpus_description="random tokens",
        n_prompts=n_prompts,
        seq_len=seq_len,
        lengths=((seq_len, n_prompts),),
        verify_prompts=(0, n_prompts),
    )


def _config(model: Resolved, n_prompts: int) -> SweepConfig:
    values = {"models": ["random"], "block_prompts": n_prompts, "seq_len": model.seq_len, "positions": "all"}
    return build_config(values)


def scan_task(model: Resolved, n_prompts: int) -> ShardTask:
    """The first shard of a scan in blocks of so many prompts."""
    return plan_scan(_config(model, n_prompts), model, Numerics("cpu")).tasks[0]


def shard_tasks(model: Resolved, whole: bool) -> dict[str, ShardTask]:
    """A shard of every kind, under what it is called in the report.

    Args:
        whole: all verified writers and the trust of attributions; else a single target.
    """
    layout = layout_of(model)
    targets = verified_targets(layout) if whole else verified_targets(layout)[:1]
    means = write_array(Path(model.weights), np.zeros((len(layout.terms), model.architecture["d_model"])))
    common = _config(model, SHARD_PROMPTS), model, Numerics("cpu"), means
    group = plan_group(*common, targets, _nulls(model, targets)).tasks[0]
    tasks = {"scan": scan_task(model, SHARD_PROMPTS), f"verify, groups of {len(targets)}": group}
    return tasks | ({"verify, trust": plan_trust(*common).tasks[0]} if whole else {})


def _nulls(model: Resolved, targets: tuple[Target, ...]) -> Nulls:
    """As many nulls as a sweep has, each with its writer's own erasers."""
    layout, d_model = layout_of(model), model.architecture["d_model"]
    writers = {target.writer: target.erasers for target in targets}
    n_states = len(states_holding(layout, tuple(writers)))
    covariance = write_array(Path(model.weights), np.tile(np.eye(d_model), (n_states, 1, 1)))
    draws = _config(model, SHARD_PROMPTS).placebos
    erasers = [
        NullErasers(writer, null, direction, heads)
        for writer, heads in writers.items()
        for null, direction in nulls_of(layout, writer, draws)
    ]
    return Nulls(covariance, tuple(erasers))


def memory_request(task: ShardTask, threads: int) -> dict[str, Any]:
    """What the memory probe is asked for: a shard, and how a tiny scan differs from it, which loads the model."""
    work = ScanWork(WriterBlock(0, 1), ScanOptions())
    first = {"stage": "scan", "n_prompts": 1, "positions": 1, "work": work, "covariance": None}
    return {"task": task._asdict(), "first": first, "threads": threads}


def _row(shape: str, measured: str, found: dict[str, Any], target: float | None = None) -> Row:
    return Row(
        SUBJECT, shape, measured, "MiB", spread([found["above_bytes"] / MIB]), target=target, details=dict(found)
    )
