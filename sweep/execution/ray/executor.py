"""Shards on Ray: plain actors, one shard in flight on each, a deadline for each shard.

How many actors there are is the pool's affair. Here shards are handed to them, and what became of a
shard is told: measured, failed by itself, lost with its node, which is nobody's fault, or lost because the process that
measured it died, which counts against it. Which of the last two it was shows when the actor answers again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erasure_sweep.sweep.execution.executor import IdleWorker, ShardFate, ShardReport, other_numerics
from erasure_sweep.sweep.execution.ray.actor import shard_worker_actor
from erasure_sweep.sweep.execution.ray.cluster import RayCluster
from erasure_sweep.sweep.execution.ray.pool import WorkerPool
from erasure_sweep.sweep.execution.ray.worker_handle import (
    NO_GPU,
    SAME_CODE,
    LostShard,
    PingResult,
    WorkerHandle,
    first_line,
)
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import Numerics, ShardTask, SharedStore

log = logging.getLogger(__name__)

NO_WORKER_S = 300.0
"""How long a sweep waits while none of its workers answers on this machine."""
NO_PLACE_S = 60.0
"""After so long without a worker on a cluster its user hears of it. Others may have it, or machines be hard to get: as long
as the cluster itself answers, a sweep waits."""
NOTHING_TO_HEAR_S = 0.02
"""A pause where no worker is asked anything, so that the driver does not spin."""
NODE_GONE_S = 20.0
"""How long Ray takes to notice that a node is gone, at most, where its settings are its own."""
DIED = "the worker's process on {} died measuring it: it crashed, was killed, or the machine ran low on memory"


class RayExecutor:
    """Workers as Ray actors.

    Args:
        cluster: from ``connect``.
        workers: how many actors are asked for, whether there is room or not; by default what there is room for.
        max_workers: never more than these; where the cluster was joined they are asked for, so that it starts machines.
        cpus: cores of one actor.
        deadline_s: how long one shard may take.
        device: kind of device that measures, ``cpu`` or ``cuda``.
        shared: where workers may put states themselves.
        say: tells people a line.
        numerics: with which it is measured; a worker with others gets no shards.
    """

    def __init__(
        self,
        cluster: RayCluster,
        workers: int | None,
        max_workers: int | None,
        cpus: int,
        deadline_s: float,
        device: str = "cpu",
        shared: SharedStore | None = None,
        say: Callable[[str], None] = log.info,
        numerics: Numerics | None = None,
    ) -> None:
        self._cluster = cluster
        self._deadline_s, self._device, self._shared = deadline_s, device, shared
        self._numerics, self._unfit_hosts = numerics, set[str]()
        capability = numerics.unit if numerics and device == "cpu" else ""
        actor, bounds = shard_worker_actor(device, capability), [n for n in (workers, max_workers) if n is not None]
        self._pool = WorkerPool(
            cluster,
            cpus,
            bound=min(bounds, default=None),
            asks=workers is not None or (max_workers is not None and not cluster.started_here),
            start=lambda share: actor.options(num_cpus=cpus, num_gpus=share).remote(threads=cpus),
        )
        self._files: dict[str, Any] = {}
        self._unclear: list[LostShard] = []
        """Shards whose worker answers from another node: perhaps the old one is dying, and Ray has not noticed."""
        self._say, self._is_wait_told = say, False
        self._last_seen = time.monotonic()
        cluster.watch()

    def scale(self, waiting: Mapping[float, int]) -> None:
        if not self._pool:
            self._last_seen = time.monotonic()
        self._pool.scale(waiting)

    def idle(self) -> list[IdleWorker]:
        return [IdleWorker(worker.name, worker.model_hash, worker.share) for worker in self._pool if worker.free]

    def holders(self) -> Counter[str]:
        return Counter(worker.model_hash for worker in self._pool if worker.model_hash)

    def submit(self, worker: IdleWorker, task: ShardTask) -> None:
        arguments = (self._contents(task), self._shared)
        self._pool[worker.name].give(task, arguments, time.monotonic() + self._deadline_s)

    def _contents(self, task: ShardTask) -> dict[str, Any]:
        """References to the files that a worker on another machine cannot read; each is put once."""
        if self._cluster.started_here:
            return {}
        import ray

        if not self._files.keys() >= set(task.files):
            self._forget_files()
        for path in task.files:
            try:
                self._files[path] = self._files.get(path) or ray.put(Path(path).read_bytes())
            except (OSError, ray.exceptions.RayError) as error:
                raise SweepError(f"{path} cannot be lent to the workers: {first_line(error)}") from error
        return {path: self._files[path] for path in task.files}

    def _forget_files(self) -> None:
        """Let go of what no shard under way is lent, so that the object store does not hold every model of a sweep."""
        used = {path for worker in self._pool if worker.task for path in worker.task.files}
        self._files = {path: reference for path, reference in self._files.items() if path in used}

    def wait(self, timeout_s: float) -> list[ShardReport]:
        self._cluster.check()
        self._ask_again()
        reports = [report for worker in self._ready(timeout_s) for report in self._take_in(worker)]
        reports += self._overdue()
        reports += self._settle_losses()
        if not reports:
            self._check_alive()
        return reports

    def _ask_again(self) -> None:
        now = time.monotonic()
        for worker in self._pool:
            if worker.absent and worker.pending is None and now >= worker.again:
                worker.ask()

    def _ready(self, timeout_s: float) -> list[WorkerHandle]:
        """Workers of whom Ray has something to say."""
        import ray

        pending = {worker.pending: worker for worker in self._pool if worker.pending is not None}
        if not pending:
            time.sleep(min(timeout_s, NOTHING_TO_HEAR_S))
            return []
        try:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
            if not ready:
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=timeout_s)
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            log.warning("Ray cannot be asked: %s", error)
            raise self._cluster.gone() from error
        return [pending[reference] for reference in ready]

    def _take_in(self, worker: WorkerHandle) -> list[ShardReport]:
        """What a worker has to say: of its shard, or that it is there."""
        if worker.task is None:
            return self._take_answer(worker)
        report = worker.collect()
        if report.fate is not ShardFate.LOST:
            self._last_seen = time.monotonic()
        if worker.lacked_files:
            self._files.clear()
        return [report]

    def _take_answer(self, worker: WorkerHandle) -> list[ShardReport]:
        """What a ping came to: the worker answers, is still gone, or will never come."""
        before = worker.process
        answer = worker.hear()
        if answer is PingResult.NEVER and before is not None:
            self._pool.end(worker, worker.unfit)
        elif answer is PingResult.NEVER:
            worker.unfit = worker.unfit.removeprefix("ImportError: ") + SAME_CODE
            log.warning("%s cannot be started: %s", worker.name, worker.unfit)
        if answer is not PingResult.ALIVE:
            return []
        self._last_seen = time.monotonic()
        self._check_gpu(worker)
        self._check_numerics(worker)
        loss, worker.lost = worker.lost, None
        return [] if loss is None else self._why_lost(worker, loss)

    def _check_gpu(self, worker: WorkerHandle) -> None:
        """A worker whose GPU torch cannot use would fail every shard, and faster than others measure them."""
        assert worker.process is not None
        if self._device == "cuda" and not worker.process.gpu:
            worker.unfit = NO_GPU.format(self._cluster.host(worker.process.node))
            log.warning("%s gets no shards: %s", worker.name, worker.unfit)

    def _check_numerics(self, worker: WorkerHandle) -> None:
        """A worker whose results differ in the last digits would make tables that no other run makes."""
        assert worker.process is not None
        own = worker.process.numerics
        if worker.unfit or own is None or self._numerics is None or own == self._numerics:
            return
        host = self._cluster.host(worker.process.node)
        worker.unfit = other_numerics(host, own, self._numerics)
        log.warning("%s gets no shards: %s", worker.name, worker.unfit)
        if host not in self._unfit_hosts:
            self._unfit_hosts.add(host)
            self._say(f"a worker gets no shards: {worker.unfit}")

    def _why_lost(self, worker: WorkerHandle, loss: LostShard) -> list[ShardReport]:
        """Whether a shard is to be blamed for what became of its worker, now that the worker answers."""
        assert worker.process is not None
        if (worker.process.pid, worker.process.node) == (loss.process.pid, loss.process.node):
            lived = "its worker lives, but what it measured could not be had: "
            return [] if loss.by_worker else [ShardReport(loss.task, ShardFate.CRASHED, reason=lived + loss.reason)]
        if worker.process.node == loss.process.node:
            return [self._crashed(loss)]
        self._unclear.append(loss)
        return []

    def _settle_losses(self) -> list[ShardReport]:
        """Shards lost on a node from which the worker has moved: Ray has noticed by now whether that node is gone."""
        self._unclear += self._pool.take_losses()
        lost = [loss for loss in self._unclear if self._cluster.is_alive(loss.process.node)]
        crashed = [loss for loss in lost if time.monotonic() - loss.at > NODE_GONE_S]
        self._unclear = [loss for loss in lost if loss not in crashed]
        return [self._crashed(loss) for loss in crashed]

    def _crashed(self, loss: LostShard) -> ShardReport:
        reason = DIED.format(self._cluster.host(loss.process.node))
        return ShardReport(loss.task, ShardFate.CRASHED, reason=f"{reason} ({loss.reason})" if loss.reason else reason)

    def _overdue(self) -> list[ShardReport]:
        """Replace workers whose shard is past its deadline."""
        now, reports = time.monotonic(), []
        for worker in self._pool:
            if worker.task is None or now <= worker.deadline:
                continue
            gone = worker.node is not None and not self._cluster.is_alive(worker.node)
            reason = "its node is gone" if gone else f"not measured within {self._deadline_s:g} s (shard_deadline_s)"
            reports.append(ShardReport(worker.task, ShardFate.LOST if gone else ShardFate.FAILED, reason=reason))
            worker.replace()
        return reports

    def _check_alive(self) -> None:
        """See that there is a worker, or may be one soon.

        Raises:
            SweepError: none can work, or none has answered for long.
        """
        workers = list(self._pool)
        if not workers or any(worker.task or (worker.present and not worker.unfit) for worker in workers):
            self._last_seen, self._is_wait_told = time.monotonic(), False
            return
        unfit = [worker.unfit for worker in workers if worker.unfit]
        if len(unfit) == len(workers):
            raise SweepError(f"no worker can measure: {unfit[0]}")
        silent_s = time.monotonic() - self._last_seen
        if self._cluster.started_here and silent_s > NO_WORKER_S:
            raise SweepError(
                f"no worker has answered for {silent_s:.0f} s: see what this machine is doing, then run again"
            )
        if not self._cluster.started_here and silent_s > NO_PLACE_S and not self._is_wait_told:
            self._is_wait_told = True
            self._say(
                "no worker has a place on the cluster yet: it is full, or starts machines (`ray status` shows it)"
            )

    def close(self) -> None:
        for worker in self._pool:
            worker.end()
        self._cluster.close()
