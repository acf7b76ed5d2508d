"""The Ray actor that measures: one that runs the driver's code, whatever lies in the folder from which it was started.

Ray puts the driver's current folder and its script's folder before everything else on the path of its workers. A checkout,
or a file with a common name, that lies there would be imported in place of what the driver runs. So the class below travels
by value and imports nothing before it has moved those folders behind all others; and it refuses to be a worker where the
package is not the driver's, after every restart anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from erasure_sweep.workers.code_identity import code_identity


def shard_worker_actor(device: str = "cpu", capability: str = "") -> Any:
    """The actor class. The driver owns attempts, so Ray restarts workers but repeats no shard by itself.

    Args:
        device: kind of device that it measures on.
        capability: of the CPU, beyond which a worker does not go (``workers.cpu_capability``).
    """
    import ray

    # Plain strings: a record of this package would be imported before the path is in order.
    launch_folders = (str(Path.cwd()), str(Path(sys.argv[0]).resolve().parent))
    driver_hash, driver_folder = code_identity()

    class ShardWorkerActor:
        """A ``RemoteShardWorker`` of the driver's code."""

        def __init__(self, threads: int) -> None:
            import socket
            import sys

            # Away until the package is imported: an editable install is looked for after every folder of the path.
            folders = [folder for folder in sys.path if folder in launch_folders]
            sys.path[:] = [folder for folder in sys.path if folder not in launch_folders]
            from erasure_sweep.workers.code_identity import code_identity

            sys.path.extend(folders)
            own = code_identity()
            if own.hash != driver_hash:
                raise ImportError(
                    f"{socket.gethostname()} runs other code ({own.hash} in {own.folder}) than the driver ({driver_hash} in "
                    f"{driver_folder})"
                )
            from erasure_sweep.workers.cpu_capability import hold_to

            hold_to(capability)  # before torch is imported
            from erasure_sweep.workers.worker import RemoteShardWorker

            self._worker = RemoteShardWorker(threads, device)

        def ping(self) -> Any:
            return self._worker.ping()

        def measure_remote(self, *arguments: Any) -> Any:
            return self._worker.measure_remote(*arguments)

    return ray.remote(max_restarts=-1, max_task_retries=0)(ShardWorkerActor)
