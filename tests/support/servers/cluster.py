"""A Ray cluster started by hand, as on machines of one's own: ``ray start`` for a head and for workers, all on loopback.

    with HandCluster() as cluster:
        worker = cluster.add_worker()
        subprocess.run([ERASURE_SWEEP, "run", "--ray-address", cluster.address], env=cluster.environment())
        subprocess.run([ERASURE_SWEEP, "submit", "demo", "--address", cluster.dashboard], env=cluster.environment())
        worker.kill()

The head has no CPU for workers of a sweep, a dashboard, and asks for a token. Nodes have a home folder of their own, where
jobs leave what they leave in ``~`` (``cluster.home``), and a folder for temporary files each, because two raylets on one
host need that. Ports are free ones. ``close`` and ``kill`` end exactly what was started here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

BIN = Path(sys.executable).parent
ERASURE_SWEEP = str(BIN / "erasure-sweep")
_STARTED = "Ray runtime started."
_OWN_MARK = "ERASURE_SWEEP_TEST_CLUSTER"
_NOT_THE_NODES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "ERASURE_SWEEP_STAGING", "MLFLOW_TRACKING_URI")
"""What tests set for themselves, and a machine of a cluster would not have."""


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One machine of the cluster: a ``ray start`` and everything that it started.

    Args:
        name: of its folder.
        folder: for its temporary files; short, because sockets lie in it.
        arguments: what ``ray start`` is told beyond what every node is.
        variables: its environment.

    Raises:
        RuntimeError: it did not start; with what it said.
    """

    def __init__(self, name: str, folder: Path, arguments: list[str], variables: dict[str, str]) -> None:
        self.name = name
        self.folder = folder
        self._mark = variables[_OWN_MARK]
        folder.mkdir()
        self._log = folder / "start.log"
        command = [str(BIN / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += ["--disable-usage-stats", *arguments]
        with self._log.open("w") as log:
            self._starter = psutil.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=True
            )

    def wait_started(self) -> None:
        """Wait until it runs.

        Raises:
            RuntimeError: it did not start; with what it said.
        """
        while _STARTED not in (said := self._log.read_text()):
            if self._starter.poll() is not None:
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{said}")
            time.sleep(0.1)

    @property
    def raylet_pid(self) -> int:
        """Process of the raylet."""
        return next(
            process.pid for process in self.processes() if _title(process).partition(" ")[0].endswith("/raylet")
        )

    @property
    def worker_pids(self) -> list[int]:
        """Processes of the sweep's workers that live here."""
        return [process.pid for process in self.processes() if _title(process).startswith("ray::ShardWorkerActor")]

    def processes(self) -> list[psutil.Process]:
        """Everything of this node that lives, parents before children."""
        try:
            return [self._starter, *self._starter.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End it at once, as when a machine loses its power: ``kill -9`` for the raylet, its workers and all the rest."""
        for _ in range(3):  # what was started in the meantime
            if not (found := [*self.processes(), *self._strays()]):
                break
            for process in found:
                _send(process, signal.SIGKILL)
            psutil.wait_procs(found)

    def _strays(self) -> list[psutil.Process]:
        """Processes whose parent is gone already, by the mark in their environment."""
        return [process for process in psutil.process_iter() if _has_mark(process, self._mark)]


class HandCluster:
    """A head, and as many workers as are added.

    Args:
        variables: further variables of the environment of every node, such as AWS_ENDPOINT_URL.
    """

    def __init__(self, **variables: str) -> None:
        # Not pytest's folder: a path to a socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))
        self.home = self.folder / "home"
        self.home.mkdir()
        self.token = secrets.token_hex(32)
        self._token_path = self.folder / "token"
        self._token_path.write_text(self.token)
        self._variables = variables
        self.address = f"127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.workers: list[Node] = []
        try:
            self.head = self._start("head", self._head_arguments())
            self.head.wait_started()
        except BaseException:
            self.close()
            raise

    def _head_arguments(self) -> list[str]:
        ports = (self.address.rpartition(":")[2], self.dashboard.rpartition(":")[2])
        return [
            *("--head", f"--port={ports[0]}", "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={100 * 2**20}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"),
            f"--ray-client-server-port={free_port()}",
        ]

    def add_worker(self, num_cpus: int = 1, num_gpus: int = 0, *, wait: bool = True) -> Node:
        """Start another machine.

        Args:
            num_cpus, num_gpus: what it says it has; a GPU is a pretended one.
            wait: until it runs.
        """
        arguments = [f"--address={self.address}", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}"]
        arguments += [f"--object-store-memory={80 * 2**20}", "--include-log-monitor=false"]
        node = self._start(f"w{len(self.workers)}", arguments)
        self.workers.append(node)
        if wait:
            node.wait_started()
        return node

    def add_workers(self, n: int, num_cpus: int = 1, num_gpus: int = 0) -> list[Node]:
        """Start several at the same time."""
        nodes = [self.add_worker(num_cpus, num_gpus, wait=False) for _ in range(n)]
        for node in nodes:
            node.wait_started()
        return nodes

    def _start(self, name: str, arguments: list[str]) -> Node:
        mark = f"{self.folder.name}/{name}"
        here = {key: value for key, value in os.environ.items() if key not in _NOT_THE_NODES}
        own = {**self._access(), "HOME": str(self.home), _OWN_MARK: mark, "OMP_NUM_THREADS": "1"}
        return Node(name, self.folder / name, arguments, {**here, **own, **self._variables})

    def environment(self, **changes: str) -> dict[str, str]:
        """Environment of a process that talks to the cluster, as a client or as a driver."""
        here = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return {**here, **self._access(), "RAY_API_SERVER_ADDRESS": self.dashboard, "OMP_NUM_THREADS": "1", **changes}

    def _access(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def close(self) -> None:
        """End every node and remove its files."""
        for node in (*self.workers, *([self.head] if hasattr(self, "head") else [])):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(process: psutil.Process, signum: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(_OWN_MARK) == mark
    except (psutil.Error, OSError):
        return False
