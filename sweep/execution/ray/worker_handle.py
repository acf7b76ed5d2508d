"""One worker as a Ray actor: what it is doing, whether it answers, and why it lost a shard.

Ray restarts a dead actor (``max_restarts``) but repeats no shard (``max_task_retries=0``). A worker whose shard was lost is
left out until it answers a ping, because a dead node is noticed late and would swallow one shard after another. When it
answers, it tells where it is: if its old node is gone, the shard was lost with that; if the node lives, its process had died
by itself.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from erasure_sweep.sweep.execution.executor import ShardFate, ShardReport, describe
from erasure_sweep.workers.records import ShardTask, WorkerProcess

SAME_CODE = (
    " (every node needs the same erasure-sweep as this one: install it there, see that PYTHONPATH names no other, or run "
    "again where it has just been changed)"
)
NO_GPU = (
    "Ray counts a GPU on {}, and torch finds none there: check its driver and that torch is a CUDA build, or use "
    "--device cpu"
)
PING_AGAIN_S = 0.5
"""A restart takes seconds: a worker is not asked in a tight loop."""


class LostShard(NamedTuple):
    """A shard that was lost, while it is not known why."""

    task: ShardTask
    process: WorkerProcess
    """Where its worker was."""
    reason: str
    """As far as Ray gives one that is more than that the worker is gone."""
    by_worker: bool
    """The worker did not answer; otherwise it was the result that could not be had."""
    at: float
    """When, by the monotonic clock."""


class PingResult(Enum):
    """What a ping came to."""

    ALIVE = auto()
    LATER = auto()
    """It does not answer yet."""
    NEVER = auto()
    """It cannot be started, and will not be."""


@dataclass
class WorkerHandle:
    """One actor.

    Args:
        share: of a GPU that it asks for.
        since: when it was last asked for, by the monotonic clock.
    """

    name: str
    handle: Any
    share: float
    since: float
    process: WorkerProcess | None = None
    """What it last answered; kept while it is absent."""
    present: bool = False
    """Whether it answers."""
    model_hash: str | None = None
    task: ShardTask | None = None
    pending: Any = None
    """Reference of the shard's result, or of the ping."""
    again: float = 0.0
    """When an absent one is asked again."""
    deadline: float = 0.0
    lost: LostShard | None = None
    lacked_files: bool = False
    """Whether its last shard failed because files that it was lent could not be had."""
    unfit: str = ""
    """Why it gets no shards: it would fail them all. It stays where it is, so that no other takes its place."""

    @property
    def node(self) -> str | None:
        """The node on which it last was."""
        return self.process.node if self.process else None

    @property
    def free(self) -> bool:
        """Whether it can be given a shard."""
        return self.present and self.task is None and not self.unfit

    @property
    def absent(self) -> bool:
        """Whether it is being started, or lost."""
        return not self.present and not self.unfit

    def ask(self) -> None:
        """Ping it; until it answers it is absent."""
        if self.present:
            self.since = time.monotonic()
        self.present, self.model_hash = False, None
        self.pending = self.handle.ping.remote()

    def ask_later(self) -> None:
        """Ping it again soon."""
        self.pending, self.again = None, time.monotonic() + PING_AGAIN_S

    def give(self, task: ShardTask, arguments: tuple[Any, ...], deadline: float) -> None:
        """Let it measure a shard."""
        self.task, self.model_hash, self.deadline = task, task.model_hash, deadline
        self.pending = self.handle.measure_remote.remote(task, *arguments)

    def collect(self) -> ShardReport:
        """What became of its shard, now that Ray knows."""
        import ray
        from ray import exceptions

        task, self.task = self.task, None
        reference, self.pending = self.pending, None
        assert task is not None
        self.lacked_files = False
        try:
            return ShardReport(task, ShardFate.MEASURED, ray.get(reference))
        except exceptions.RayTaskError as error:
            self.lacked_files = isinstance(error.cause, exceptions.RayError)
            return ShardReport(task, ShardFate.FAILED, reason=describe(error))
        except exceptions.RayActorError as error:
            return self._lose(task, error, by_worker=True, explained=False)
        except _killed() as error:
            return self._lose(task, error, by_worker=True, explained=True)
        except exceptions.ObjectLostError as error:
            return self._lose(task, error, by_worker=False, explained=True)
        except exceptions.RayError as error:
            return ShardReport(task, ShardFate.FAILED, reason=describe(error))

    def _lose(self, task: ShardTask, error: BaseException, by_worker: bool, explained: bool) -> ShardReport:
        """Its shard is lost: why shows when it answers again."""
        assert self.process is not None, "only a worker that has answered is given shards"
        reason = first_line(error)
        self.lost = LostShard(task, self.process, reason if explained else "", by_worker, time.monotonic())
        self.ask()
        return ShardReport(task, ShardFate.LOST, reason=f"{self.name} is gone, or what it measured: {reason}")

    def hear(self) -> PingResult:
        """What the ping came to, now that Ray knows."""
        import ray
        from ray import exceptions

        reference, self.pending = self.pending, None
        try:
            self.process = ray.get(reference)
        except exceptions.ActorDiedError as error:  # Ray will not restart it
            self.unfit = last_line(error)
            return PingResult.NEVER
        except (exceptions.RayActorError, *_killed()):
            self.ask_later()
            return PingResult.LATER
        except exceptions.RayError as error:
            self.unfit = last_line(error)
            return PingResult.NEVER
        self.present = True
        return PingResult.ALIVE

    def replace(self) -> None:
        """Kill its process; Ray starts it again."""
        import ray

        with contextlib.suppress(Exception):  # if it is gone already, the ping tells
            ray.kill(self.handle, no_restart=False)
        self.task = None
        self.ask()

    def end(self) -> None:
        """Kill it for good."""
        import ray

        with contextlib.suppress(Exception):  # a worker that is already gone needs no killing
            ray.kill(self.handle)


def _killed() -> tuple[type[Exception], ...]:
    """How Ray says that it, or the system, has killed a worker or its node."""
    from ray import exceptions

    return (
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
    )


def first_line(error: BaseException) -> str:
    """What Ray says happened; its details follow below."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """What an error that came with a traceback says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
