"""Shards on Ray: plain actors, one shard in flight on each, a deadline for each shard.

What was tried on real clusters shaped this. Ray restarts a dead actor (``max_restarts``) but repeats no shard
(``max_task_retries=0``). A worker whose shard was lost is left out until it answers a ping, because a dead node is noticed
late and would swallow one shard after another. A worker that answers again had crashed by itself, which counts against the
shard; one that never does was lost with its node, which does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.executors import Fate, Outcome, Worker, describe
from workers.errors import SweepError
from workers.records import ShardTask

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 2**30
PROBE_TIMEOUT_S = 5.0
NO_WORKER_S = 300.0
NO_WORKER_ON_CLUSTER_S = 1800.0
"""How long a sweep waits while none of its workers answers; a cluster may have to start machines first."""


@dataclass
class _Actor:
    """One actor and what it is doing."""

    name: str
    handle: Any
    model_hash: str | None = None
    task: ShardTask | None = None
    result: Any = None
    deadline: float = 0.0
    ping: Any = None
    lost: ShardTask | None = None
    """The shard it lost, while it is not yet known why."""


@dataclass
class Cluster:
    """The Ray session: whether this process started it, and what it has."""

    started_here: bool
    resources: dict[str, float] = field(default_factory=dict)


def connect(address: str | None, cpus: int | None) -> Cluster:
    """Join the cluster at ``address`` (or RAY_ADDRESS), or start one on this machine.

    Args:
        cpus: CPU slots of a local cluster; by default the machine's.

    Raises:
        SweepError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if address is None:
        options |= {"num_cpus": max(cpus or 0, os.cpu_count() or 1), "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE_BYTES}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _probe(address)
        ray.init(address=address or "local", **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler aborts the process
    except Exception as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise SweepError(f"{where}: {last} (--workers 0 measures without Ray)") from error
    return Cluster(address is None, ray.cluster_resources())


def _probe(address: str | None) -> None:
    """One quick try, because Ray tries an address where nothing listens for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()


class RayExecutor:
    """Workers as Ray actors.

    Args:
        cluster: from ``connect``.
        n_workers: how many actors; by default as many as the cluster has room for.
        cpus, gpus: what one actor asks for.
        deadline_s: how long one shard may take.
        n_tasks: how many shards there are; more workers than that are not started.
    """

    def __init__(
        self, cluster: Cluster, n_workers: int | None, cpus: int, gpus: float, deadline_s: float, n_tasks: int
    ) -> None:
        from workers.actor import remote_worker

        self._cluster = cluster
        self._deadline_s = deadline_s
        self._files: dict[str, Any] = {}
        room = cluster.resources.get("GPU", 0) / gpus if gpus else cluster.resources.get("CPU", 1) / cpus
        n = max(1, min(n_workers or max(1, int(room)), n_tasks))
        actor = remote_worker().options(num_cpus=cpus, num_gpus=gpus)
        self._actors = [_Actor(f"worker-{i}", actor.remote(threads=cpus)) for i in range(n)]
        for started in self._actors:
            started.ping = started.handle.ping.remote()
        self._last_seen = time.monotonic()

    def idle(self) -> list[Worker]:
        return [Worker(a.name, a.model_hash) for a in self._actors if a.task is None and a.ping is None]

    def holders(self) -> Counter[str]:
        return Counter(a.model_hash for a in self._actors if a.model_hash)

    def submit(self, worker: Worker, task: ShardTask) -> None:
        actor = next(a for a in self._actors if a.name == worker.name)
        actor.task, actor.model_hash = task, task.model_hash
        actor.deadline = time.monotonic() + self._deadline_s
        actor.result = actor.handle.measure_remote.remote(task, self._contents(task))

    def _contents(self, task: ShardTask) -> dict[str, Any]:
        """References to the files that a worker on another machine cannot read; each is put once."""
        if self._cluster.started_here:
            return {}
        import ray

        for path in (task.weights, task.tokens):
            if path not in self._files:
                self._files[path] = ray.put(Path(path).read_bytes())
        return {path: self._files[path] for path in (task.weights, task.tokens)}

    def wait(self, timeout_s: float) -> list[Outcome]:
        import ray

        waiting = {a.result if a.task else a.ping: a for a in self._actors if a.task or a.ping is not None}
        if not waiting:
            return []
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        outcomes = [o for ref in ready for o in (self._collect if waiting[ref].task else self._pinged)(waiting[ref])]
        outcomes += self._overdue()
        self._check_alive()
        return outcomes

    def _collect(self, actor: _Actor) -> list[Outcome]:
        """What became of an actor's shard."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        task, actor.task = actor.task, None
        assert task is not None
        try:
            outcome = Outcome(task, Fate.MEASURED, ray.get(actor.result))
            self._last_seen = time.monotonic()
        except RayActorError as error:
            log.warning("%s is gone with shard %s: %s", actor.name, task.id, str(error).splitlines()[0])
            actor.model_hash, actor.lost = None, task
            actor.ping = actor.handle.ping.remote()
            outcome = Outcome(task, Fate.LOST, reason="its worker died")
        except RayTaskError as error:
            self._last_seen = time.monotonic()
            outcome = Outcome(task, Fate.FAILED, reason=describe(error))
        actor.result = None
        return [outcome]

    def _pinged(self, actor: _Actor) -> list[Outcome]:
        """An actor answered, or is still gone."""
        import ray
        from ray.exceptions import RayActorError

        try:
            ray.get(actor.ping)
        except RayActorError:
            time.sleep(0.2)  # a restart takes seconds: ask again, but not in a tight loop
            actor.ping = actor.handle.ping.remote()
            return []
        self._last_seen = time.monotonic()
        actor.ping, lost, actor.lost = None, actor.lost, None
        return [] if lost is None else [Outcome(lost, Fate.CRASHED, reason="the worker's process died measuring it")]

    def _overdue(self) -> list[Outcome]:
        """Replace workers whose shard is past its deadline."""
        import ray

        late = [a for a in self._actors if a.task is not None and time.monotonic() > a.deadline]
        outcomes = []
        for actor in late:
            assert actor.task is not None
            reason = f"not measured within {self._deadline_s:g} s (shard_deadline_s)"
            outcomes.append(Outcome(actor.task, Fate.FAILED, reason=reason))
            ray.kill(actor.handle, no_restart=False)
            actor.task, actor.result, actor.model_hash = None, None, None
            actor.ping = actor.handle.ping.remote()
        return outcomes

    def _check_alive(self) -> None:
        busy = any(a.task is not None for a in self._actors)
        patience_s = NO_WORKER_S if self._cluster.started_here else NO_WORKER_ON_CLUSTER_S
        if not busy and not self.idle() and time.monotonic() - self._last_seen > patience_s:
            raise SweepError(
                f"no worker has answered for {patience_s:.0f} s: check the cluster (`ray status`), then run again"
            )

    def close(self) -> None:
        import ray

        for actor in self._actors:
            with contextlib.suppress(Exception):  # a worker that is already gone needs no killing
                ray.kill(actor.handle)
        ray.shutdown()
