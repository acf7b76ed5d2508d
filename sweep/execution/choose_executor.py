"""Where a sweep is measured: on which kind of device, and with which executor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.estimate import worker_memory
from erasure_sweep.sweep.execution.executor import Executor, LocalExecutor
from erasure_sweep.sweep.execution.ray.cluster import RayCluster, cluster_address, connect
from erasure_sweep.sweep.execution.ray.executor import RayExecutor
from erasure_sweep.sweep.execution.ray.numerics import cluster_numerics
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import has_gpu, own_numerics
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.records import Numerics, Resolved, SharedStore

SHARES = (0.25, 0.5)
"""Of a GPU, that workers of smaller models may ask for: so that they fill one."""


class MeasuringPlace(NamedTuple):
    """What is there to measure with.

    ``cluster`` is None while Ray is not needed or will be started on this machine.
    """

    config: SweepConfig
    device: str
    cluster: RayCluster | None

    def numerics(self, background: HelperProcess, say: Callable[[str], None]) -> Numerics:
        """With which numerics there is measured: those of a cluster's workers, else this machine's."""
        if self.cluster is not None:
            return cluster_numerics(self.cluster, self.config.cpus_per_worker, self.device, say)
        if self.config.workers == 0 and "torch" in sys.modules:  # whose settings may be its user's
            return own_numerics(self.device)
        return background.submit(own_numerics, self.device).result()

    def close(self) -> None:
        """Leave the cluster, whether or not anything was measured on it."""
        if self.cluster is not None:
            self.cluster.close()

    def executor(self, numerics: Numerics, shared: SharedStore | None, say: Callable[[str], None]) -> Executor:
        """An executor, whose workers come with the shards; Ray is started here if it is needed and not running.

        Args:
            numerics: with which the sweep is measured.
            shared: where workers may put states themselves.
            say: tells people a line.
        """
        config = self.config
        if config.workers == 0:
            return LocalExecutor(config.cpus_per_worker, numerics)
        cluster = self.cluster or connect("local", (config.workers or 1) * config.cpus_per_worker)
        counts = (config.workers, config.max_workers, config.cpus_per_worker)
        return RayExecutor(cluster, *counts, config.shard_deadline_s, self.device, shared, say, numerics)

    def gpus_for(self, model: Resolved) -> float:
        """Share of a GPU that workers of a model ask for; 0 where models run on CPUs."""
        config = self.config
        if self.device != "cuda":
            return 0.0
        if config.gpus_per_worker != "auto":
            return config.gpus_per_worker
        # What a worker takes is reckoned for the batch of a CPU, unless one is given.
        on_gpu = config.model_copy(update={"batch": config.batch_on("cuda")})
        needed = worker_memory(on_gpu, model.sketches, model.weights_bytes, model.seq_len, model.architecture)
        return next((share for share in SHARES if needed <= share * config.gpu_memory_gib * 2**30), 1.0)


def find_room(config: SweepConfig, background: HelperProcess) -> MeasuringPlace:
    """Join the cluster that is asked for, and see whether there are GPUs.

    Raises:
        SweepError: no cluster answers at the address.
        UsageError: a GPU is asked for where there is none.
    """
    address = cluster_address(config.ray_address)
    cluster = connect(address, None) if address and config.workers != 0 else None
    if cluster is not None:
        # A cluster that grows from nothing has no GPU yet: then it is enough that one is asked for.
        asked_for = config.workers is not None or config.max_workers is not None
        gpu_found = cluster.gpus > 0 or (config.device == "cuda" and asked_for)
    else:
        gpu_found = background.submit(has_gpu).result()
    if config.device == "cuda" and not gpu_found:
        raise UsageError(
            "device = 'cuda': no GPU is found here; use --device auto or cpu (a cluster that starts GPUs on demand needs "
            "--workers N or --max-workers N as well)"
        )
    return MeasuringPlace(config, "cuda" if gpu_found and config.device != "cpu" else "cpu", cluster)
