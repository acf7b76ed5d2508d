"""Where a sweep is measured: on which kind of device, and with which executor."""

from __future__ import annotations

import os
from typing import NamedTuple

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.executors import Executor, LocalExecutor
from sweep.ray_executor import Cluster, RayExecutor, connect
from workers.errors import UsageError


class Room(NamedTuple):
    """What is there to measure with.

    ``cluster`` is None while Ray is not needed or will be started on this machine.
    """

    config: SweepConfig
    device: str
    cluster: Cluster | None

    def executor(self, n_tasks: int) -> Executor:
        """An executor for at most this many shards at a time; Ray is started here if it is needed and not running."""
        config = self.config
        if config.workers == 0:
            return LocalExecutor(config.cpus_per_worker)
        cluster = self.cluster or connect(None, (config.workers or 1) * config.cpus_per_worker)
        gpus = config.gpus_per_worker if self.device == "cuda" else 0.0
        return RayExecutor(cluster, config.workers, config.cpus_per_worker, gpus, config.shard_deadline_s, n_tasks)


def find_room(config: SweepConfig, background: Background) -> Room:
    """Join the cluster that is asked for, and see whether there are GPUs.

    Raises:
        SweepError: no cluster answers at the address.
        UsageError: a GPU is asked for where there is none.
    """
    address = config.ray_address or os.environ.get("RAY_ADDRESS")
    cluster = connect(address, None) if address and config.workers != 0 else None
    if cluster is not None:
        # A cluster that grows from nothing has no GPU yet: then it is enough that one is asked for.
        has_gpu = cluster.resources.get("GPU", 0) > 0 or (config.device == "cuda" and config.workers is not None)
    else:
        has_gpu = background.submit("workers.resolve:has_gpu").result()
    if config.device == "cuda" and not has_gpu:
        raise UsageError(
            "device = 'cuda': no GPU is found here; use --device auto or cpu (a cluster that starts GPUs on demand needs "
            "--workers N as well)"
        )
    return Room(config, "cuda" if has_gpu and config.device != "cpu" else "cpu", cluster)
