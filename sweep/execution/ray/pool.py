"""How many workers there are on Ray, and with which share of a GPU: started while there is work and room, ended for others.

Ray says where each is, and lets those wait that find no place. Only how many are asked for is decided here, because a
cluster may start machines for whatever waits, and because Ray does not know which of them have nothing to do. Workers are
started while shards wait for their share, the largest share first, so that a big model gets whole GPUs while small ones lie
four on one. Nodes that join are used; where nodes left, workers without a place are ended. A worker is not ended for being
idle, only where shards of another share lack its room.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol

from erasure_sweep.sweep.execution.ray.cluster import ClusterNode
from erasure_sweep.sweep.execution.ray.worker_handle import LostShard, WorkerHandle

log = logging.getLogger(__name__)

SCALE_S = 2.0
"""How often the number of workers is thought over."""
PLACING_S = 10.0
"""A worker that takes longer to start lacks room, most likely."""


class Nodes(Protocol):
    """What the cluster is asked here."""

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """Those that are alive."""
        ...

    def is_alive(self, node: str) -> bool:
        """Whether a node is."""
        ...


class WorkerPool:
    """The workers, by name.

    Args:
        cluster: what there is room on.
        cpus: cores that each worker asks for.
        bound: never more workers than this.
        asks: as many as the bound are asked for, whether the cluster has room yet or not.
        start: makes an actor that asks for so much of a GPU.
    """

    def __init__(self, cluster: Nodes, cpus: int, bound: int | None, asks: bool, start: Callable[[float], Any]) -> None:
        self._cluster, self._cpus, self._bound, self._asks, self._start_actor = cluster, cpus, bound, asks, start
        self._workers: dict[str, WorkerHandle] = {}
        self._n_started = 0
        self._scaled = 0.0
        self._losses: list[LostShard] = []

    def __iter__(self) -> Iterator[WorkerHandle]:
        """Safe against workers that end meanwhile."""
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, name: str) -> WorkerHandle:
        return self._workers[name]

    def scale(self, waiting: Mapping[float, int]) -> None:
        """Start workers, and end those in the way.

        Args:
            waiting: how many shards wait, by the share of a GPU that they ask for.
        """
        now = time.monotonic()
        if now - self._scaled < SCALE_S and {worker.share for worker in self}.issuperset(waiting):
            return
        self._scaled = now
        self._notice_lost_nodes()
        self._end_unplaced()
        self._end_needless(waiting)
        for share in sorted((share for share, n in waiting.items() if n), reverse=True):
            self._start_for(share, waiting)

    def end(self, worker: WorkerHandle, why: str) -> None:
        """Do without a worker."""
        log.info("%s is ended: %s", worker.name, why)
        if worker.lost:
            self._losses.append(worker.lost)
        del self._workers[worker.name]
        worker.end()

    def take_losses(self) -> list[LostShard]:
        """Shards lost by workers that were ended before they could tell why, once."""
        losses, self._losses = self._losses, []
        return losses

    def _notice_lost_nodes(self) -> None:
        """Workers that were idle on a node that is gone get no shards until they are back; the unfit are forgotten."""
        for worker in self:
            if worker.node is None or self._cluster.is_alive(worker.node):
                continue
            if worker.unfit:
                self.end(worker, "its node is gone")
            elif worker.free:
                worker.ask()

    def _end_unplaced(self) -> None:
        """Where nodes left, end workers that have found no place for long, all but one, unless they were asked for.

        One that only takes its time to start is none of them: it would be started again at once.
        """
        stuck = sorted((worker for worker in self if self._is_stuck(worker)), key=lambda worker: -worker.share)
        while stuck and not self._asks and len(self) > 1 and self._taken(self) > 1:
            self.end(stuck.pop(), "there is no room for it any more")

    def _end_needless(self, waiting: Mapping[float, int]) -> None:
        """End workers that wait for room which nothing waits for any more: a cluster might start machines for them."""
        for share in {worker.share for worker in self}:
            absent, stuck = self._absent(share), self._stuck(share)
            for worker in stuck[: max(0, len(absent) - waiting.get(share, 0))]:
                self.end(worker, "no shard waits for it")

    def _start_for(self, share: float, waiting: Mapping[float, int]) -> None:
        """Start workers for shards that wait, and make room for them if it is taken by workers that have nothing to do."""
        lacking = waiting[share] - sum(w.free or w.absent for w in self if w.share == share)
        lacking -= self._start(share, lacking)
        stuck = len(self._stuck(share))
        for worker in self._spare(share, waiting):
            if lacking <= 0 and stuck <= 0:
                return
            self.end(worker, "its room is needed for models that ask for another share of a GPU")
            started = self._start(share, lacking)
            lacking, stuck = lacking - started, stuck - (not started)

    def _start(self, share: float, at_most: int) -> int:
        """Start workers as far as bound and room allow, a first one whatever the room; says how many."""
        allowed = at_most if self._bound is None else self._bound - len(self)
        room = at_most if self._asks else max(self._room(share), 0 if self._workers else 1)
        n = max(0, min(at_most, allowed, room))
        for _ in range(n):
            worker = WorkerHandle(f"worker-{self._n_started}", self._start_actor(share), share, time.monotonic())
            worker.ask()
            self._workers[worker.name] = worker
            self._n_started += 1
        if n:
            log.info("%d workers started%s", n, f", each on {share:g} of a GPU" if share else "")
        return n

    def _room(self, share: float) -> int:
        """How many more workers of a share fit; those of others that find no place, as for a whole GPU, take none."""
        taken = self._taken(worker for worker in self if worker.share == share or not self._is_stuck(worker))
        return max(0, math.floor((1 - taken) * self._capacity(share)))

    def _taken(self, workers: Iterable[WorkerHandle]) -> Fraction:
        """Which part of the cluster workers take; one that has no place anywhere counts as all of it."""
        shares = Counter(worker.share for worker in workers)
        return sum((Fraction(n, max(1, self._capacity(share))) for share, n in shares.items()), Fraction(0))

    def _capacity(self, share: float) -> int:
        """How many workers fit if all have this share."""
        return sum(node.capacity(self._cpus, share) for node in self._cluster.nodes)

    def _absent(self, share: float) -> list[WorkerHandle]:
        return [worker for worker in self if worker.share == share and worker.absent]

    def _stuck(self, share: float) -> list[WorkerHandle]:
        return [worker for worker in self._absent(share) if self._is_stuck(worker)]

    def _is_stuck(self, worker: WorkerHandle) -> bool:
        """Whether it should have started by now: it lacks room, most likely."""
        return worker.absent and time.monotonic() - worker.since > PLACING_S

    def _spare(self, share: float, waiting: Mapping[float, int]) -> list[WorkerHandle]:
        """Workers of other shares that have nothing to do, node by node, so that whole GPUs become free."""
        others = (worker for worker in self if worker.share != share and not waiting.get(worker.share))
        return sorted((w for w in others if w.free or w.absent), key=lambda w: (not w.absent, w.node or "", w.name))
