"""Peak memory of a shard above the loaded model, for few and for many prompts: it should not grow with them.

One shard, forwarded in the batches that a run would take, in a process of its own for each number of prompts. Once with
the C library's allocator as it comes, which keeps freed blocks and whose peak wanders as they fragment, and once with large
blocks given back as soon as they are freed (glibc's MALLOC_MMAP_THRESHOLD_): what is then left is what is held at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sweep.config import build_config
from tests.benchmarks.probe import run_probe
from tests.benchmarks.settings import Settings, random_prompts, stage_random
from tests.benchmarks.timing import Row, spread

SUBJECT = "memory"
MIB = 2**20
ALLOCATORS: dict[str, dict[str, str]] = {
    "allocator as it comes": {},
    "freed blocks given back": {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},
}


def measure_memory(settings: Settings) -> Iterator[Row]:
    """A row for each number of prompts, and one for the largest beside the smallest."""
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        requests = memory_requests(settings, Path(folder))
        for allocator, environment in ALLOCATORS.items():
            found = {}
            for n_prompts, request in requests.items():
                found[n_prompts] = run_probe("memory", request, Path(folder), settings.threads, environment)
                yield _row(settings, f"{n_prompts} prompts, {allocator}", found[n_prompts])
            few, many = min(found), max(found)
            growth = found[many]["above_bytes"] / found[few]["above_bytes"]
            yield Row(
                SUBJECT, settings.memory_shape, f"{many} prompts, {allocator}", "×", spread([growth]), f"{few} prompts"
            )


def memory_requests(settings: Settings, folder: Path) -> dict[int, dict[str, Any]]:
    """What the memory probe is asked for each number of prompts; model and prompts are written to ``folder``."""
    config, seq_len, largest = (
        settings.shapes[settings.memory_shape],
        settings.memory_seq_len,
        max(settings.memory_prompts),
    )
    weights, tokens, short = folder / "model.safetensors", folder / "tokens.npy", folder / "short.npy"
    model_hash = stage_random(config, weights)
    prompts = random_prompts(config, largest, seq_len).numpy().astype(np.int32)
    np.save(tokens, prompts)
    np.save(short, prompts[:1, :2])
    sweep = build_config({"models": ["random"], "block_prompts": largest, "seq_len": seq_len})
    task = {
        "id": "benchmark",
        "model_hash": model_hash,
        "weights": str(weights),
        "tokens": str(tokens),
        "first_prompt": 0,
    }
    task |= {"writers": [0, len(config.layout.writers)], "positions": None, "seed": 0, "batch": sweep.batch_on("cpu")}
    task |= {"device": "cpu", "dtype": "float32"}
    first = {"tokens": str(short), "n_prompts": 1, "writers": [0, 1]}
    return {
        n: {"task": {**task, "n_prompts": n}, "first": first, "threads": settings.threads}
        for n in settings.memory_prompts
    }


def _row(settings: Settings, measured: str, found: dict[str, Any]) -> Row:
    details = {**found, "seq_len": settings.memory_seq_len}
    return Row(SUBJECT, settings.memory_shape, measured, "MiB", spread([found["above_bytes"] / MIB]), details=details)
