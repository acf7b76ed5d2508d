"""A sweep as a job on a cluster, while processes are killed under it: workers, whole nodes, the driver.

    trial = Chaos(cluster, config, lambda: len(s3.keys("trial")), random.Random(0))
    trial.run(n_shards=130)   # submits again as often as it takes
    trial.killed              # ["driver", "worker", "node"]

Moments are counts of finished shards, drawn at random. What is killed is killed with SIGKILL; a node takes everything with
it, and another one joins in its place.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.servers.cluster import ERASURE_SWEEP, HandCluster, Node

KINDS = ("worker", "node", "driver")


class Chaos:
    """One trial.

    Args:
        cluster: with workers that have a CPU each.
        config: a YAML file.
        done: how many shards are in the store.
        chance: of moments and victims.
    """

    def __init__(self, cluster: HandCluster, config: Path, done: Callable[[], int], chance: random.Random) -> None:
        self._cluster, self._config, self._done, self._chance = cluster, config, done, chance
        self.killed: list[str] = []
        self.said: list[str] = []
        """What every submission printed."""

    def run(self, n_shards: int, kinds: tuple[str, ...] = KINDS) -> None:
        """Submit, kill one of each kind on the way, and submit again until the sweep is measured.

        Args:
            n_shards: about how many the sweep has.
        """
        moments = sorted(self._chance.sample(range(2, int(0.8 * n_shards)), len(kinds)))
        plan = list(zip(moments, self._chance.sample(kinds, len(kinds)), strict=True))
        for _ in range(len(kinds) + 2):
            if self._submit(plan) == 0:
                assert not plan, f"the sweep was through before {plan}"
                return
        raise AssertionError("\n".join(self.said))

    def _submit(self, plan: list[tuple[int, str]]) -> int:
        log = self._config.with_suffix(f".{len(self.said)}.log")
        command = [ERASURE_SWEEP, "submit", str(self._config), "--address", self._cluster.dashboard]
        with log.open("w") as file:
            process = subprocess.Popen(command, env=self._cluster.environment(), stdout=file, stderr=file)
            while process.poll() is None:
                if plan and self._done() >= plan[0][0] and self._kill(plan[0][1]):
                    self.killed.append(plan.pop(0)[1])
                time.sleep(0.05)
        self.said.append(log.read_text())
        return process.returncode

    def _kill(self, kind: str) -> bool:
        """Whether there was one to kill."""
        if kind == "node":
            return self._kill_node()
        victims = self._drivers() if kind == "driver" else self._workers()
        if victims:
            self._chance.choice(victims).kill()
        return bool(victims)

    def _kill_node(self) -> bool:
        nodes = [node for node in self._cluster.workers if node.processes()]
        self._chance.choice(nodes).kill()
        self._cluster.add_worker(wait=False)
        return True

    def _workers(self) -> list[psutil.Process]:
        return _running(self._cluster.workers, "ShardWorkerActor")

    def _drivers(self) -> list[psutil.Process]:
        return [p for p in _running([self._cluster.head], "sweep.yaml") if "erasure-sweep" in p.cmdline()[1]]


def _running(nodes: list[Node], what: str) -> list[psutil.Process]:
    """Processes of these nodes whose command line holds a word."""
    found = []
    for process in (process for node in nodes for process in node.processes()):
        try:
            if what in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it ended in between
            continue
    return found
