"""How many processors this process may use, which is fewer than the machine has in most containers and batch jobs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")
_JOB_VARIABLES = ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "PBS_NCPUS", "NSLOTS", "LSB_DJOB_NUMPROC")
"""What Slurm, PBS, Grid Engine and LSF grant, where they do not bind processes to it."""


def usable_cpus(root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Processors by the affinity of this process, the quotas of its control groups and the batch job around it.

    A part of a processor counts as a whole one, as others count (the JVM, loky).

    Args:
        root: below which the system's files lie.
        environment: of this process.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = [int(n) for name in _JOB_VARIABLES if (n := environment.get(name, "")).isdecimal() and int(n)]
    return max(1, min([affinity, *granted, *(math.ceil(quota) for quota in _quotas(root) if quota < affinity)]))


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in processors, of this process' control groups and of all above them, in both versions of Linux' interface."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                yield from _along(root / "sys/fs/cgroup", group, _quota_v2)
            elif "cpu" in controllers.split(","):
                yield from _along(root / "sys/fs/cgroup/cpu", group, _quota_v1)


def _along(mount: Path, group: str, quota_of: Callable[[Path], float]) -> Iterator[float]:
    """The quotas from a group up to the mount; a container sees its own group there, whatever its path says."""
    inner = mount / group.lstrip("/")
    for folder in (inner, *inner.parents):
        with suppress(OSError, ValueError):
            yield quota_of(folder)
        if folder == mount:
            return


def _quota_v2(folder: Path) -> float:
    """Of ``cpu.max``, which holds "max 100000" where there is none."""
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    """Of the scheduler's two files, the first of which holds -1 where there is none."""
    quota, period = (
        int((folder / name).read_text(encoding="ascii")) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    return quota / period if quota > 0 else math.inf
