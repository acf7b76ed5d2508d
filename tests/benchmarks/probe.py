"""What is measured in a process of its own: ``python -m tests.benchmarks.probe KIND REQUEST`` prints JSON.

A fresh process has its own peak of memory, its own imports and, for a sweep, the driver alone. Heavy imports stand inside
the functions, so that the driver is measured as light as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from erasure_sweep.sweep.config import build_config
from erasure_sweep.sweep.terminal.progress import SilentReporter
from erasure_sweep.workers.records import (
    Group,
    GroupWork,
    NullErasers,
    Numerics,
    Resolved,
    ScanOptions,
    ScanWork,
    ShardTask,
    Target,
    TrustWork,
    Work,
    WriterBlock,
)
from tests.support.paths import ROOT

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def run_probe(
    kind: str, request: dict[str, Any], folder: Path, threads: int, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a probe in a new process.

    Args:
        folder: where it works, so that nothing is left in the repository.
        threads: what numerical libraries may use of the CPU.
        environment: further variables.

    Returns:
        What it found, and ``total_s``, the process' own life from start to end.
    """
    command = [sys.executable, "-m", "tests.benchmarks.probe", kind, json.dumps(request)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    total_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"probe {kind} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "total_s": total_s}


def rss_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def descendants_cpu_s() -> float:
    """Processor time so far of all processes below this one that live: Ray's own, its workers, the background process."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended between listing and asking
            times = process.cpu_times()
            total += times.user + times.system
    return total


def reset_peak() -> None:
    """Forget the peak so far, where the system can: loading a model reaches higher than measuring does."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def peak_bytes() -> int:
    """Largest memory of this process since ``reset_peak``."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_WORKS: dict[str, Callable[..., Work]] = {
    "scan": lambda writers, options: ScanWork(WriterBlock(*writers), _options(*options)),
    "group": lambda targets, places, draws, nulls: GroupWork(
        tuple(Target(w, tuple(heads), why) for w, heads, why in targets),
        places,
        draws,
        tuple(NullErasers(w, null, direction, tuple(heads)) for w, null, direction, heads in nulls),
    ),
    "trust": lambda writers, tokens, rotated: TrustWork(WriterBlock(*writers), tokens, rotated),
}


def _options(ln: str, groups: Sequence[Sequence[Any]], *numbers: int) -> ScanOptions:
    return ScanOptions(ln, tuple(Group(writer, tuple(erasers)) for writer, erasers in groups), *numbers)


def read_task(values: dict[str, Any]) -> ShardTask:
    """A shard from its fields, whose records have become lists on their way through JSON."""
    return ShardTask(**{**values, "work": _WORKS[values["stage"]](*values["work"])})


def probe_memory(request: dict[str, Any]) -> dict[str, Any]:
    """Peak memory of measuring a shard, above the process that holds the loaded model.

    Args:
        request: ``task``, fields of the shard; ``first``, fields that differ in a first, tiny shard that loads the model.
    """
    from erasure_sweep.workers.worker import ShardWorker

    worker = ShardWorker(request["threads"])
    worker.measure(read_task({**request["task"], **request["first"]}))
    reset_peak()
    loaded = rss_bytes()
    result = worker.measure(read_task(request["task"]))
    return {"loaded_bytes": loaded, "above_bytes": peak_bytes() - loaded, "state_bytes": len(result.state)}


def probe_loop(request: dict[str, Any]) -> dict[str, Any]:
    """A sweep's shards in a plain loop: no driver, no Ray, no store."""
    from erasure_sweep.sweep.plan import plan_scan
    from erasure_sweep.workers.worker import ShardWorker

    config = build_config(request["config"])
    plan = plan_scan(config, Resolved(**request["model"]), Numerics("cpu"))
    worker = ShardWorker(config.cpus_per_worker)
    ends, cpu = [], []
    for task in plan.tasks:
        worker.measure(task)
        ends.append(time.perf_counter())
        cpu.append(time.process_time())
    return {"ends_s": ends, "own_cpu_s": [cpu[0], cpu[-1]], "descendants_cpu_s": [0.0, 0.0]}


class TimingReporter(SilentReporter):
    """Notes when the shards were planned and when each was in, the driver's memory then, and processor time at the ends."""

    def __init__(self) -> None:
        self.planned_s = 0.0
        self.ends_s: list[float] = []
        self.rss_bytes: list[int] = []
        self.own_cpu_s: list[float] = []
        self.descendants_cpu_s: list[float] = []
        self._total = 0

    def start_stage(self, name: str, stage: str, done: int, total: int, prompts_per_shard: float) -> None:
        self.planned_s = time.perf_counter()
        self._total = total

    def advance(self, name: str) -> None:
        self.ends_s.append(time.perf_counter())
        self.rss_bytes.append(rss_bytes())
        if len(self.ends_s) in (1, self._total):  # listing processes takes milliseconds
            self.own_cpu_s.append(time.process_time())
            self.descendants_cpu_s.append(descendants_cpu_s())


class PairedReporter(TimingReporter):
    """Measures every shard once more, in the driver's own process, while the driver waits and its only worker is idle.

    A shard's way through driver, Ray and store and its plain measuring are then a fraction of a second apart, and what
    else the machine does weighs on both alike.
    """

    def __init__(self, measure_again: Callable[[int], object]) -> None:
        super().__init__()
        self._measure_again = measure_again
        self._resumed_s = 0.0
        self.pairs_s: list[tuple[float, float]] = []
        """Seconds of each shard but the first: in the run, and measured plainly."""

    def advance(self, name: str) -> None:
        super().advance(name)
        arrived = self.ends_s[-1]
        start = time.perf_counter()
        self._measure_again(len(self.ends_s) - 1)
        plain_s = time.perf_counter() - start
        if self._resumed_s:
            self.pairs_s.append((arrived - self._resumed_s, plain_s))
        self._resumed_s = time.perf_counter()


def probe_pairs(request: dict[str, Any]) -> dict[str, Any]:
    """A sweep with one worker, shard by shard beside plain measuring."""
    from erasure_sweep.sweep.driver import SweepDriver
    from erasure_sweep.sweep.plan import plan_scan
    from erasure_sweep.sweep.run import Run
    from erasure_sweep.workers.worker import ShardWorker

    config = build_config(request["config"])
    tasks = plan_scan(config, Resolved(**request["model"]), Numerics("cpu")).tasks
    worker = ShardWorker(config.cpus_per_worker)
    worker.measure(tasks[0])
    reporter = PairedReporter(lambda index: worker.measure(tasks[index]))
    outcome = SweepDriver(Run.of(config), reporter).measure()
    if outcome.problems:
        raise RuntimeError(outcome.problems[0])
    return {"pairs_s": reporter.pairs_s}


def probe_sweep(request: dict[str, Any]) -> dict[str, Any]:
    """The same shards through driver, Ray and store, as ``erasure-sweep run`` takes them."""
    start = time.perf_counter()
    from erasure_sweep.sweep.driver import SweepDriver
    from erasure_sweep.sweep.run import Run

    reporter = TimingReporter()
    outcome = SweepDriver(Run.of(build_config(request["config"])), reporter).measure()
    if outcome.problems:
        raise RuntimeError(outcome.problems[0])
    return {
        "staging_s": reporter.planned_s - start,
        "first_shard_s": reporter.ends_s[0] - reporter.planned_s,
        "finishing_s": time.perf_counter() - reporter.ends_s[-1],
        "ends_s": reporter.ends_s,
        "rss_bytes": reporter.rss_bytes,
        "own_cpu_s": reporter.own_cpu_s,
        "descendants_cpu_s": reporter.descendants_cpu_s,
    }


def probe_noop(request: dict[str, Any]) -> dict[str, Any]:
    """Shards that measure nothing, as ``tests.benchmarks.noop`` has them."""
    from tests.benchmarks.noop import probe_noop as probe

    return probe(request)


PROBES = {
    "memory": probe_memory,
    "loop": probe_loop,
    "pairs": probe_pairs,
    "sweep": probe_sweep,
    "noop": probe_noop,
}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(PROBES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
