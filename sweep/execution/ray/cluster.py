"""The Ray session: joining a cluster or starting one, which nodes it has, and noticing that it is gone.

Ray's own calls wait for a head that does not answer until Ray ends the process, after a minute and without a word to the
user. So nodes are asked for in a thread of their own, and whoever works here looks at what it last heard.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any, NamedTuple

from erasure_sweep.sweep.execution.ray.local_cluster import LocalCluster, refresh_config, start_local_cluster
from erasure_sweep.sweep.execution.usable_cpus import usable_cpus
from erasure_sweep.workers.errors import SweepError

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
REFRESH_S = 2.0
GONE_S = 30.0
"""How long the head may be silent."""
COUNT_S = 1.0
RAYS_PATIENCE_S = 600
"""How long Ray itself waits for the head: it then ends the process with a page of its own, by default after 60 s, which a
busy machine may need to notice that the cluster is gone and to note that in MLflow."""
SHUTDOWN_S = 3.0
"""How long a cluster that is gone is given to let go of this process."""


class ClusterNode(NamedTuple):
    """A machine of the cluster that is alive."""

    id: str
    host: str
    cpus: float
    gpus: float

    def capacity(self, cpus: int, share: float) -> int:
        """How many workers fit that ask for so many cores and this share of one GPU; 0 for none."""
        by_cores = int(self.cpus // cpus)
        return min(by_cores, int(self.gpus) * int(1 / share)) if share else by_cores


class RayCluster:
    """A Ray session of this process, from ``connect``.

    Args:
        joined: where it is: an address, or what this process started.
    """

    def __init__(self, joined: str | LocalCluster) -> None:
        self._joined = joined
        self._own_node = _own_node()
        self._silent_s = 0.0
        self._gone = False
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None
        self.nodes: tuple[ClusterNode, ...] = ()
        """Nodes that were alive when the head last answered."""
        self._ask()

    @property
    def started_here(self) -> bool:
        """Whether it is this process' own, on this machine."""
        return isinstance(self._joined, LocalCluster)

    @property
    def gpus(self) -> float:
        """How many GPUs there are."""
        return sum(node.gpus for node in self.nodes)

    def is_alive(self, node: str) -> bool:
        """Whether a node was there when the head last answered."""
        return any(each.id == node for each in self.nodes)

    def host(self, node: str) -> str:
        """Name of a node's machine."""
        return next((each.host for each in self.nodes if each.id == node), "a machine that is gone")

    def watch(self) -> None:
        """Keep ``nodes`` up to date from now on."""
        self._silent_s = 0.0
        if self._watch is not None:
            return
        self._watch = threading.Thread(target=self._keep_asking, name="ray-nodes", daemon=True)
        self._watch.start()
        threading.Thread(target=self._keep_counting, name="ray-silence", daemon=True).start()

    def _keep_asking(self) -> None:
        while not self._ended.wait(REFRESH_S):
            try:
                self._ask()
            except Exception as error:  # noqa: BLE001 a head that cannot be asked is silent, which `check` tells
                log.debug("the nodes of the cluster cannot be asked for: %s", error)

    def _ask(self) -> None:
        import ray

        self.nodes = tuple(_node(found) for found in ray.nodes() if found["Alive"])
        self._silent_s = 0.0

    def _keep_counting(self) -> None:
        """Count for how long the head is silent: in steps, because no step passes while this process is stopped itself."""
        while not self._ended.wait(COUNT_S):
            self._count()

    def _count(self) -> None:
        self._silent_s += COUNT_S

    def is_gone(self) -> bool:
        """Whether the head, or this machine's part of Ray, has ended."""
        lives = self._own_node is None or self.is_alive(self._own_node)
        self._gone = self._gone or self._silent_s > GONE_S or not lives
        return self._gone

    def check(self) -> None:
        """See that the cluster is still there.

        Raises:
            SweepError: it is gone.
        """
        if self.is_gone():
            raise self.gone()

    def gone(self) -> SweepError:
        """To be raised where Ray says, or ``check`` finds, that there is no cluster any more."""
        self._gone = True
        if self.started_here:
            return SweepError("Ray has ended on this machine: what was measured is kept, run again")
        return SweepError(
            f"the Ray cluster at {self._joined} is gone: what was measured is kept; start it, see that `ray status` "
            "answers, and run again"
        )

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here; once."""
        if self._ended.is_set():
            return
        self._leave()
        if isinstance(self._joined, LocalCluster):
            self._joined.close()

    def _leave(self) -> None:
        import ray

        gone = self.is_gone()
        self._ended.set()
        if self._watch is not None and not gone:
            self._watch.join(REFRESH_S)
        if not gone:
            ray.shutdown()
            return
        leaving = threading.Thread(target=_shut_down, name="ray-shutdown", daemon=True)
        leaving.start()
        leaving.join(SHUTDOWN_S)
        if leaving.is_alive():
            atexit.unregister(ray.shutdown)  # it would keep the process from ending, until Ray aborts it


def connect(address: str | None, cpus: int | None) -> RayCluster:
    """Join the cluster at ``address``, or start one on this machine; see ``cluster_address``.

    Args:
        cpus: CPU slots that a local cluster has at least; by default those that this process may use.

    Raises:
        SweepError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        raise SweepError(
            "Ray is already in use in this process, which can be of one cluster at a time: end it (ray.shutdown()) or wait for "
            "the other run; --workers 0 measures without Ray"
        )
    address = cluster_address(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            return RayCluster(start_local_cluster(max(cpus or 0, usable_cpus()), options))
        _probe(address)
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(RAYS_PATIENCE_S))
        refresh_config()
        ray.init(address=address, **options)
        return RayCluster(address)
    except Exception as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise SweepError(f"{where}: {last} (--workers 0 measures without Ray)") from error
    except SystemExit as error:  # what Ray's own handler of SIGTERM makes of it
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def cluster_address(named: str | None) -> str | None:
    """Which cluster is to be joined: as named, else by RAY_ADDRESS, unless that is a dashboard's, to which jobs are submitted.

    ``None``, or ``local`` in Ray's words, is one on this machine.
    """
    address = named or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" or (named is None and address.startswith("http")) else address


def _probe(address: str) -> None:
    """One quick try, because Ray tries an address where nothing listens for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()


def _own_node() -> str | None:
    """The node that this process stands on; none where it speaks to a cluster from outside (``ray://``)."""
    import ray

    return None if ray.util.client.ray.is_connected() else str(ray.get_runtime_context().get_node_id())


def _node(found: dict[str, Any]) -> ClusterNode:
    resources = found["Resources"]
    return ClusterNode(
        found["NodeID"], found["NodeManagerHostname"], resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    )


def _shut_down() -> None:
    import ray

    with contextlib.suppress(Exception):  # there is nobody left to say good-bye to
        ray.shutdown()
