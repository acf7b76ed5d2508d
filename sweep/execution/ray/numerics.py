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
from erasure_sweep.workers.cpu_capability import RANKS
from erasure_sweep.workers.records import Numerics

log = logging.getLogger(__name__)

ANSWER_S = 60.0
"""How long nodes are waited for when one has answered; who starts later is held to what was chosen, or gets no shards."""
TOLD_S = 30.0
_GPU_SHARE = 0.01


def cluster_numerics(cluster: RayCluster, cpus: int, device: str, say: Callable[[str], None]) -> Numerics | None:
    """What most of a cluster can provide; ``None`` where no worker can be started, which starting them for shards tells.

    Args:
        cpus: cores of one worker.
        device: kind of device that measures.
        say: tells people a line.
    """
    actors = list(_ask(cluster, cpus, device))
    try:
        return choose(_answers(cluster, [actor.ping.remote() for actor in actors], say))
    finally:
        import ray

        for actor in actors:
            with contextlib.suppress(Exception):  # one that is gone needs no killing
                ray.kill(actor)


def choose(found: Sequence[Numerics]) -> Numerics | None:
    """Those of the lowest CPU capability, among these the most common; of none none."""
    ranked = [(RANKS.index(each.unit) if each.unit in RANKS else len(RANKS), each) for each in found]
    lowest = [each for rank, each in ranked if rank == min(rank for rank, _ in ranked)]
    return Counter(lowest).most_common(1)[0][0] if lowest else None


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


def _answers(cluster: RayCluster, waiting: list[Any], say: Callable[[str], None]) -> list[Numerics]:
    """What the nodes answer, until all have or ``ANSWER_S`` after the first."""
    import ray

    found: list[Numerics] = []
    began = first = time.monotonic()
    is_told = False
    while waiting and not (found and time.monotonic() - first > ANSWER_S):
        try:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise cluster.gone() from error
        for reference in ready:
            try:
                answer = ray.get(reference).numerics
            except ray.exceptions.RayError as error:
                log.info("a node cannot say how it computes: %s", error)
                continue
            first = first if found else time.monotonic()
            found += [answer] if answer else []
        if not found and not is_told and time.monotonic() - began > TOLD_S:
            is_told = True
            say("waiting for a first worker on the cluster: it is full, or starts machines (`ray status` shows it)")
    return found
