"""What the driver's machine does while a sweep runs, by the names under which MLflow shows it as system metrics.

MLflow's own monitor writes from a thread of its own and asks for its run again and again; here only the collecting is its.
``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false`` turns it off, and ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` sets the time
between two samples.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

log = logging.getLogger(__name__)

SAMPLING_S = 10.0
_LONGEST_S = 3600.0


def sampling_s() -> float:
    """Seconds between two samples, from one to an hour."""
    try:
        asked = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", ""))
    except ValueError:
        return SAMPLING_S
    return min(max(asked, 1.0), _LONGEST_S) if math.isfinite(asked) else SAMPLING_S


def this_machine() -> MachineMetrics | None:
    """The machine to be watched; ``None`` where the user does not want that, or nothing of it can be seen."""
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").strip().lower() in ("false", "0"):
        return None
    try:
        return MachineMetrics()
    except Exception as error:  # noqa: BLE001 libraries fail in their own ways, and nothing depends on this
        log.info("the machine is not watched: %s", error)
        return None


class MachineMetrics:
    """Collects samples; what cannot be collected on this machine is left out."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        self._monitors: list[Any] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            try:
                monitor = kind()
                monitor.collect_metrics()  # use of a CPU is told as of the time since the last call
                monitor.clear_metrics()
            except Exception as error:  # noqa: BLE001 no GPU, no /proc: every system fails in its own way
                log.info("no %s: %s", kind.__name__, error)
            else:
                self._monitors.append(monitor)

    def sample(self) -> dict[str, float]:
        """The machine's state now, and use since the last sample, by the names of MLflow's system metrics."""
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found
