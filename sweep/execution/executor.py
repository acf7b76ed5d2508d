"""Where shards are measured: in this process, or by Ray actors. One interface, so that the driver's loop knows neither.

An executor has workers; an idle one is given a shard, and ``wait`` returns what became of shards. Executors never repeat a
shard by themselves: the driver owns attempts.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from erasure_sweep.workers.cpu_capability import VARIABLE, hold_to
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import Numerics, ShardResult, ShardTask


class ShardFate(Enum):
    """What became of a shard that was handed out."""

    MEASURED = "measured"
    FAILED = "failed"
    """Its own code raised, or its deadline passed: counts against the shard."""
    LOST = "lost"
    """Its worker is gone, perhaps with its node: the shard goes back to the queue and nothing is held against it."""
    CRASHED = "crashed"
    """The worker that had lost it is back on its feet, so its process died while measuring: counts against the shard,
    which was already put back."""


class ShardReport(NamedTuple):
    """One report on one shard."""

    task: ShardTask
    fate: ShardFate
    result: ShardResult | None = None
    reason: str = ""


class IdleWorker(NamedTuple):
    """An idle worker and the model that it holds."""

    name: str
    model_hash: str | None
    gpus: float | None
    """Share of a GPU that it has, for shards that ask for the same; ``None`` where it takes any shard."""


class Executor(Protocol):
    """Runs shards on its workers."""

    def scale(self, waiting: Mapping[float, int]) -> None:
        """Have as many workers as there is work and room for; cheap enough to be called in every step.

        Args:
            waiting: how many shards wait, by the share of a GPU that they ask for.
        """
        ...

    def idle(self) -> list[IdleWorker]:
        """Workers that wait for a shard."""
        ...

    def holders(self) -> Counter[str]:
        """How many workers hold each model, by its hash."""
        ...

    def submit(self, worker: IdleWorker, task: ShardTask) -> None:
        """Give a shard to an idle worker."""
        ...

    def wait(self, timeout_s: float) -> list[ShardReport]:
        """Reports that came in, at most ``timeout_s`` later."""
        ...

    def close(self) -> None:
        """Stop all workers at once."""
        ...


class LocalExecutor:
    """One worker in the driver's own process: for debugging, and the reference for all others.

    Args:
        threads: as one Ray worker would have.
        numerics: with which it is measured.

    Raises:
        SweepError: this process has others.
    """

    def __init__(self, threads: int, numerics: Numerics | None = None) -> None:
        if numerics and "torch" not in sys.modules:
            hold_to(numerics.unit)
        from erasure_sweep.workers.numerics import numerics_on
        from erasure_sweep.workers.worker import ShardWorker

        if numerics and (own := numerics_on(numerics.device)) != numerics:
            raise SweepError(other_numerics("this process", own, numerics))
        self._worker = ShardWorker(threads)
        self._model_hash: str | None = None
        self._task: ShardTask | None = None

    def scale(self, waiting: Mapping[float, int]) -> None:
        """There is one worker, whatever waits."""

    def idle(self) -> list[IdleWorker]:
        return [] if self._task else [IdleWorker("local", self._model_hash, None)]

    def holders(self) -> Counter[str]:
        return Counter([self._model_hash] if self._model_hash else [])

    def submit(self, worker: IdleWorker, task: ShardTask) -> None:
        self._task, self._model_hash = task, task.model_hash

    def wait(self, timeout_s: float) -> list[ShardReport]:
        """Measure the shard that was submitted."""
        if self._task is None:
            return []
        task, self._task = self._task, None
        try:
            return [ShardReport(task, ShardFate.MEASURED, self._worker.measure(task))]
        except Exception as error:  # noqa: BLE001 a shard's failure is recorded with its traceback, never swallowed
            return [ShardReport(task, ShardFate.FAILED, reason=describe(error))]

    def close(self) -> None:
        self._task = None


class LateExecutor:
    """Starts its workers when shards wait: a sweep that is measured already needs none.

    Args:
        start: makes the executor that has the workers.
    """

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._started: Executor | None = None

    def scale(self, waiting: Mapping[float, int]) -> None:
        if self._started is None and any(waiting.values()):
            self._started = self._start()
        if self._started:
            self._started.scale(waiting)

    def idle(self) -> list[IdleWorker]:
        return self._started.idle() if self._started else []

    def holders(self) -> Counter[str]:
        return self._started.holders() if self._started else Counter()

    def submit(self, worker: IdleWorker, task: ShardTask) -> None:
        assert self._started is not None, "there is no worker before shards wait"
        self._started.submit(worker, task)

    def wait(self, timeout_s: float) -> list[ShardReport]:
        return self._started.wait(timeout_s) if self._started else []

    def close(self) -> None:
        if self._started:
            self._started.close()


def other_numerics(where: str, own: Numerics, asked: Numerics) -> str:
    """The line for a place that would not compute the digits of the shards that are measured."""
    return (
        f"{where} computes otherwise than the sweep's shards were ({own.differs_from(asked)}): go on where these were "
        f"measured or with the same torch and {VARIABLE}, or measure all anew with --fresh or another --out"
    )


def describe(error: BaseException) -> str:
    """An exception with its traceback, for the log; the last line says what it was."""
    return "".join(traceback.format_exception(error)).strip()
