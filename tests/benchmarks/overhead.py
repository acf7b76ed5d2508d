"""What driver, Ray and store add to the measuring: a scan by `run` with one worker beside the same shards in a plain loop.

The start and the end of a run (staging, Ray, MLflow, tables and pages) are told apart from the steady state between the
first shard that came in and the last. A second workload of tiny shards leaves next to nothing but the overhead, and shows
whether the driver's memory grows with the shards.

A whole run and a whole loop are many seconds apart: on a busy machine their wall clocks compare two different machines, and
a run can seem faster than its loop. So the steady state is taken from a run of its own, in which every shard is measured
again, plainly, right after it came in; the two are compared shard by shard. Its worker waits meanwhile, which a plain run's
does not. The processor time of a plain run is that of the driver and all processes below it. Ray starts its workers at a
lower priority (nice 15), which shows where a machine is busy.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.sweep.config import build_config
from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.resolve import resolve
from tests.benchmarks.probe import run_probe
from tests.benchmarks.settings import Settings, Workload, random_prompts
from tests.benchmarks.timing import Row, spread
from tests.support.models.random_models import random_config, write_tl_directory

SUBJECT = "overhead"
D_VOCAB = 512
MIB = 2**20
LOOP = "the same shards in a plain loop"


def measure_overhead(settings: Settings) -> Iterator[Row]:
    """Rows for shards of real work, then for tiny ones."""
    for work in (settings.work, settings.tiny):
        with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
            found = _measure(settings, work, Path(folder))
        yield from overhead_rows(work, found)


class Found(NamedTuple):
    """What the probes of one workload found."""

    runs: list[dict[str, Any]]
    loops: list[dict[str, Any]]
    pairs_s: list[tuple[float, float]]
    """Of each shard but the first: its seconds in a run, and measured plainly right after."""


def _measure(settings: Settings, work: Workload, folder: Path) -> Found:
    """Runs and loops in turns, then the run in pairs; the model is staged before, so none of them converts it."""
    values, model = prepare(settings, work, folder)
    runs, loops = [], []
    for turn in range(settings.sweep_rounds):
        own = {**values, "out": str(folder / f"out{turn}")}
        found = {}
        # A run's last processes may still be ending when the next probe starts, so each goes first in every other turn.
        for kind in ("sweep", "loop") if turn % 2 == 0 else ("loop", "sweep"):
            found[kind] = run_probe(kind, {"config": own, "model": model}, folder, settings.threads)
        runs.append(found["sweep"])
        loops.append(found["loop"])
    request = {"config": {**values, "out": str(folder / "pairs")}, "model": model}
    return Found(runs, loops, run_probe("pairs", request, folder, settings.threads)["pairs_s"])


def prepare(settings: Settings, work: Workload, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write and stage a random model and its prompts.

    Returns:
        Keys of the sweep's config, and the staged model's fields.
    """
    shape = (work.n_layers, work.n_heads, work.d_model)
    spec = write_tl_directory(folder / "model", 0, *shape, n_ctx=work.seq_len, d_vocab=D_VOCAB)
    config = random_config(*shape, n_ctx=work.seq_len, d_vocab=D_VOCAB)
    corpus = folder / "prompts.npy"
    np.save(corpus, random_prompts(config, work.n_prompts, work.seq_len).numpy().astype(np.int32))
    values = {
        "name": "benchmark",
        "models": [str(spec)],
        "stage": "scan",
        "corpus": str(corpus),
        "prompts": work.n_prompts,
        "seq_len": work.seq_len,
        "block_prompts": work.block_prompts,
        "workers": 1,
        "cpus_per_worker": settings.threads,
        "device": "cpu",
        "staging": str(folder / "staging"),
        "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
    }
    checked = build_config(values)
    request = CorpusRequest(checked.corpus, checked.prompts, checked.seq_len, checked.seed)
    return values, resolve(str(spec), request, str(folder / "staging"))._asdict()


def overhead_rows(work: Workload, found: Found) -> Iterator[Row]:
    """What the probes of one workload come to."""
    runs, loops = found.runs, found.loops
    turns = list(zip(runs, loops, strict=True))
    n_shards = len(runs[0]["ends_s"])
    shape = f"{work.name} ({n_shards})"
    details: dict[str, Any] = {
        "shard_ms": {"run": [_shard_ms(run) for run in runs], "loop": [_shard_ms(loop) for loop in loops]},
        "shard_cpu_ms": {"run": [_shard_cpu_ms(run) for run in runs], "loop": [_shard_cpu_ms(loop) for loop in loops]},
        "driver_cpu_ms": [_per_shard_ms(run, "own_cpu_s") for run in runs],
        "total_s": {"run": [run["total_s"] for run in runs], "loop": [loop["total_s"] for loop in loops]},
    }

    def row(measured: str, unit: str, values: Sequence[float], beside: str = "", cpu: float | None = None) -> Row:
        return Row(SUBJECT, shape, measured, unit, spread(values), beside, cpu, details=details)

    yield row("run with one worker, from start to end", "×", [a["total_s"] / b["total_s"] for a, b in turns], LOOP)
    cpu = statistics.median(_shard_cpu_ms(a) / _shard_cpu_ms(b) for a, b in turns)
    yield row(
        "a shard in the run, steady state", "×", [a / b for a, b in found.pairs_s], "measured plainly right after", cpu
    )
    yield row("a shard measured plainly", "ms", [1000.0 * b for _, b in found.pairs_s])
    yield row("driver, Ray and store, for each shard", "ms", [1000.0 * (a - b) for a, b in found.pairs_s])
    beyond = [_shard_cpu_ms(a) - _shard_cpu_ms(b) for a, b in turns]
    yield row("the same in processor time, all processes together", "ms", beyond)
    yield row("run: staging, planning, opening MLflow's runs", "s", [run["staging_s"] for run in runs])
    yield row("run: starting Ray, loading the model, first shard", "s", [run["first_shard_s"] for run in runs])
    yield row("run: merging, tables, pages, logging", "s", [run["finishing_s"] for run in runs])
    yield row("driver's memory at the first shard", "MiB", [run["rss_bytes"][0] / MIB for run in runs])
    yield row("… and how much it grows to the last", "MiB", [_growth(run["rss_bytes"]) / MIB for run in runs])


def _shard_ms(found: dict[str, Any]) -> float:
    """Mean wall time per shard between the first that came in and the last."""
    ends: list[float] = found["ends_s"]
    return 1000.0 * (ends[-1] - ends[0]) / (len(ends) - 1)


def _per_shard_ms(found: dict[str, Any], key: str) -> float:
    """Processor time per shard, from what was used at the first shard's end and at the last's."""
    first, last = found[key]
    return 1000.0 * float(last - first) / (len(found["ends_s"]) - 1)


def _shard_cpu_ms(found: dict[str, Any]) -> float:
    return _per_shard_ms(found, "own_cpu_s") + _per_shard_ms(found, "descendants_cpu_s")


def _growth(rss: list[int]) -> int:
    return rss[-1] - rss[0]
