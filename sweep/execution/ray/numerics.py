"""With which numerics a cluster measures: asked of its nodes, before a sweep's shards get their ids.

Every node with room is asked, by a worker that measures nothing. Where CPUs differ the lowest capability is taken, because the
others can be held to it; of GPUs the kind that most nodes have. A cluster without a node yet is waited for, as shards would be.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from erasure_sweep.sweep.execution.ray.actor import shard_worker_actor
from erasure_sweep.sweep.execution.ray.cluster import RayCluster
from erasure_sweep.sweep.execution.ray.worker_handle import NO_GPU, SAME_CODE, last_line
from erasure_sweep.workers.cpu_capability import RANKS
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import Numerics

log = logging.getLogger(__name__)

ANSWER_S = 60.0
"""How long nodes are waited for when one has answered; who starts later is held to what was chosen, or gets no shards."""
TOLD_S = 30.0
ATTEMPTS = 3
"""How often a cluster is asked of which no node answers: machines that are reclaimed, workers that are killed."""
_GPU_SHARE = 0.01


def cluster_numerics(cluster: RayCluster, cpus: int, device: str, say: Callable[[str], None]) -> Numerics:
    """What most of a cluster can provide.

    Args:
        cpus: cores of one worker.
        device: kind of device that measures.
        say: tells people a line.

    Raises:
        SweepError: no worker can be started that could measure, or the cluster is gone.
    """
    cluster.watch()
    reason = ""
    for _ in range(ATTEMPTS):
        actors = list(_ask(cluster, cpus, device))
        try:
            found, reason = _answers(cluster, [actor.ping.remote() for actor in actors], say)
        finally:
            _end(actors)
        if found:
            return choose(found)
    raise SweepError(f"no worker can measure: {reason}")


def _end(actors: Sequence[Any]) -> None:
    import ray

    for actor in actors:
        with contextlib.suppress(Exception):  # one that is gone needs no killing
            ray.kill(actor)


def choose(found: Sequence[Numerics]) -> Numerics:
    """Those of the lowest CPU capability, among these the most common."""
    ranked = [(RANKS.index(each.unit) if each.unit in RANKS else len(RANKS), each) for each in found]
    lowest = [each for rank, each in ranked if rank == min(rank for rank, _ in ranked)]
    return Counter(lowest).most_common(1)[0][0]


def _ask(cluster: RayCluster, cpus: int, device: str) -> Iterator[Any]:
    """A worker on every node that has room, or one that waits for a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    share = _GPU_SHARE if device == "cuda" else 0
    nodes = [node for node in cluster.nodes if node.capacity(cpus, share)]
    actor = shard_worker_actor(device)
    if not nodes:
        yield actor.options(num_cpus=cpus, num_gpus=share, max_restarts=0).remote(threads=cpus)
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        yield actor.options(num_cpus=0, num_gpus=share, max_restarts=0, scheduling_strategy=here).remote(threads=cpus)


def _answers(cluster: RayCluster, waiting: list[Any], say: Callable[[str], None]) -> tuple[list[Numerics], str]:
    """What the nodes answer, until all have or ``ANSWER_S`` after the first, and why one cannot measure, if one cannot."""
    import ray

    found: list[Numerics] = []
    reason = ""
    began = first = time.monotonic()
    is_told = False
    while waiting and not (found and time.monotonic() - first > ANSWER_S):
        cluster.check()
        try:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise cluster.gone() from error
        for reference in ready:
            try:
                answer = ray.get(reference).numerics
            except ray.exceptions.RayError as error:
                log.info("a node cannot say how it computes: %s", error)
                reason = last_line(error).removeprefix("ImportError: ") + SAME_CODE
                continue
            if answer is None:
                reason = NO_GPU.format("a node")
                continue
            first = first if found else time.monotonic()
            found.append(answer)
        if not found and not is_told and time.monotonic() - began > TOLD_S:
            is_told = True
            say("waiting for a first worker on the cluster: it is full, or starts machines (`ray status` shows it)")
    return found, reason
