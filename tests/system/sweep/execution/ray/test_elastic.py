"""Workers that come and go: nodes of a cluster that join and leave, GPUs in shares, processes that hang, die or cannot start.

The nodes are real raylets on this machine, with pretended cores and GPUs. Most actors do what the id of their shard says
("sleep 1", "die", "hang"), and tell where and when; those of the last tests are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erasure_sweep.sweep.execution.executor import ShardFate
from erasure_sweep.sweep.execution.ray.cluster import connect
from erasure_sweep.sweep.execution.ray.executor import RayExecutor
from erasure_sweep.sweep.execution.ray.numerics import cluster_numerics
from erasure_sweep.sweep.execution.shard_queue import ShardQueue
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.numerics import numerics_on
from erasure_sweep.workers.records import ScanOptions, ScanWork, ShardResult, ShardTask, WorkerProcess, WriterBlock
from tests.support.bad_input import Bench, assert_nothing_finished
from tests.support.servers.cluster import HandCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("ray")

MEMORY = 80 * 2**20
"""Of a node's object store."""


def scripted_worker(*told: str) -> Any:
    """Stands for ``shard_worker_actor``; defined in here, so that it travels whole and needs no torch there."""
    import ray

    class Scripted:
        def __init__(self, threads: int) -> None: ...

        def ping(self) -> WorkerProcess:
            return WorkerProcess(os.getpid(), ray.get_runtime_context().get_node_id(), False)

        def measure_remote(self, task: ShardTask, files: dict[str, Any], shared: object) -> ShardResult:
            what, _, seconds = task.id.partition(" ")
            start = time.time()
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            while what == "hang":
                start += 0  # as a loop in C would, it hears nothing
            time.sleep(float(seconds.split()[0]))
            told = {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "share": task.gpus}
            return ShardResult(task.id, json.dumps({**told, "start": start, "end": time.time()}).encode(), 1)

    return ray.remote(max_restarts=-1, max_task_retries=0)(Scripted)


def broken_worker(*told: str) -> Any:
    """One whose machine lacks what it needs."""
    import ray

    class Broken:
        def __init__(self, threads: int) -> None:
            raise ModuleNotFoundError("No module named 'workers'")

        def ping(self) -> None: ...

    return ray.remote(max_restarts=-1, max_task_retries=0)(Broken)


def tasks(what: str, n: int, gpus: float = 0.0, tokens: str = "", **changes: Any) -> list[ShardTask]:
    """So many shards of one model, which is named after what they do."""
    work = ScanWork(WriterBlock(0, 1), ScanOptions())
    one = ShardTask("", "scan", f"{what} {gpus}", tokens, tokens, 0, 1, None, 0, work, 1, "cpu", "float32", gpus)
    return [one._replace(id=f"{what} {i}", **changes) for i in range(n)]


class Trial:
    """The driver's loop without models: hands shards out, takes reports in, counts what is held against shards."""

    def __init__(self, executor: RayExecutor, shards: Iterable[ShardTask], attempts: int = 3) -> None:
        self.executor = executor
        self.queue = ShardQueue(attempts)
        self.queue.add(shards)
        self.results: dict[str, dict[str, Any]] = {}
        self.fates: list[tuple[str, ShardFate, str]] = []
        """Of all shards that were not measured."""
        self.set_aside: set[str] = set()

    def step(self) -> None:
        executor = self.executor
        executor.scale(self.queue.waiting())
        for worker in executor.idle():
            if task := self.queue.take(worker.model_hash, executor.holders(), worker.gpus):
                executor.submit(worker, task)
        for task, fate, result, reason in executor.wait(0.2):
            if fate is ShardFate.MEASURED:
                assert result is not None and result.state is not None
                self.results[task.id] = json.loads(result.state)
                continue
            self.fates.append((task.id, fate, reason))
            if fate is ShardFate.LOST:
                self.queue.put_back(task)
            elif self.queue.fail(task, waiting=fate is ShardFate.CRASHED):
                self.set_aside.add(task.id)

    def until(self, condition: Callable[[], object]) -> Trial:
        while not condition():
            self.step()
        return self

    def until_measured(self, n: int) -> Trial:
        return self.until(lambda: len(self.results) >= n)

    def count(self, fate: ShardFate) -> int:
        return sum(found is fate for _, found, _ in self.fates)

    def nodes(self) -> set[str]:
        return {result["node"] for result in self.results.values()}

    def pids(self) -> set[int]:
        return {result["pid"] for result in self.results.values()}

    def at_once(self) -> list[Counter[float]]:
        """How many shards of each share were measured at the same time, whenever one began."""
        found = list(self.results.values())
        starts = [result["start"] for result in found]
        return [Counter(r["share"] for r in found if r["start"] <= moment < r["end"]) for moment in starts]


class Machines:
    """A cluster of a head that measures nothing, and nodes that are added."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
        self.address = self._cluster.address
        self._nodes: list[Any] = []

    def add(self, num_cpus: int = 1, num_gpus: int = 0) -> Any:
        self._nodes.append(self._cluster.add_node(num_cpus=num_cpus, num_gpus=num_gpus, object_store_memory=MEMORY))
        return self._nodes[-1]

    def remove(self, node: Any) -> None:
        """As when a machine loses its power."""
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def clear(self) -> None:
        for node in list(self._nodes):
            self.remove(node)

    def close(self) -> None:
        self.clear()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.close()


@pytest.fixture
def machines(cluster: Machines) -> Iterator[Machines]:
    yield cluster
    cluster.clear()


Start = Callable[..., RayExecutor]


@pytest.fixture
def start(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes an executor on the cluster, with actors that do as they are told."""
    monkeypatch.setattr("erasure_sweep.sweep.execution.ray.executor.shard_worker_actor", scripted_worker)
    started: list[RayExecutor] = []

    def make(
        workers: int | None = None, max_workers: int | None = None, deadline_s: float = 60.0, **more: Any
    ) -> RayExecutor:
        started.append(RayExecutor(connect(machines.address, None), workers, max_workers, 1, deadline_s, **more))
        return started[-1]

    yield make
    for executor in started:
        executor.close()


@pytest.fixture
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that is lent to the workers."""
    path = tmp_path_factory.mktemp("elastic") / "tokens.npy"
    path.write_bytes(b"tokens")
    return str(path)


@pytest.mark.nightly
def test_four_quarters_share_a_gpu_and_a_whole_one_has_it_alone(machines: Machines, start: Start, tokens: str) -> None:
    machines.add(num_cpus=8, num_gpus=1)
    trial = Trial(start(), [*tasks("sleep 0.5", 1_000, 0.25, tokens), *tasks("sleep 0.4", 2, 1.0, tokens)])
    trial.until(lambda: any(found[0.25] == 4 for found in trial.at_once()))
    trial.until_measured(len(trial.results) + 8)
    assert sum(result["share"] == 1.0 for result in trial.results.values()) == 2
    assert all(found[0.25] * 0.25 + found[1.0] <= 1 for found in trial.at_once())
    assert trial.fates == []


def test_a_node_that_joins_is_used_and_one_that_leaves_is_not_missed(
    machines: Machines, start: Start, tokens: str
) -> None:
    machines.add()
    trial = Trial(start(), tasks("sleep 0.3", 10_000, tokens=tokens)).until_measured(3)
    assert len(trial.nodes()) == 1
    joined = machines.add()
    trial.until(lambda: len(trial.nodes()) == 2)
    machines.remove(joined)
    trial.until(lambda: trial.fates and len(list(trial.executor._pool)) == 1)
    trial.until_measured(len(trial.results) + 3)
    assert {fate for _, fate, _ in trial.fates} == {ShardFate.LOST}


@pytest.mark.nightly
def test_as_many_as_at_most_are_asked_for_before_there_is_room(machines: Machines, start: Start, tokens: str) -> None:
    machines.add()
    trial = Trial(start(max_workers=3), tasks("sleep 0.1", 10_000, tokens=tokens)).until_measured(2)
    assert len(trial.pids()) == 1
    assert len(list(trial.executor._pool)) == 3
    machines.add(num_cpus=5)
    trial.until(lambda: len(trial.pids()) == 3)
    trial.until_measured(len(trial.results) + 30)
    assert len(trial.pids()) == 3


@pytest.mark.nightly
def test_a_worker_that_hangs_is_replaced_and_its_shard_is_charged(
    machines: Machines, start: Start, tokens: str
) -> None:
    """One in a loop that hears nothing, and one whose process is stopped from outside."""
    machines.add()
    executor = start(deadline_s=4.0)
    trial = Trial(executor, tasks("sleep 0", 1, tokens=tokens)).until_measured(1)
    os.kill(trial.results["sleep 0 0"]["pid"], signal.SIGSTOP)
    trial = Trial(executor, [*tasks("sleep 0.1", 2, tokens=tokens), *tasks("hang 0", 1, tokens=tokens)], attempts=2)
    trial.until(lambda: len(trial.results) == 2 and trial.set_aside)
    assert trial.set_aside == {"hang 0 0"}
    charged = Counter(name.rpartition(" ")[0] for name, fate, _ in trial.fates if fate is ShardFate.FAILED)
    assert charged == {"sleep 0.1": 1, "hang 0": 2}
    assert {reason for *_, reason in trial.fates} == {"not measured within 4 s (shard_deadline_s)"}


@pytest.mark.nightly
def test_a_shard_that_kills_workers_is_set_aside_after_three(machines: Machines, start: Start, tokens: str) -> None:
    machines.add(num_cpus=2)
    trial = Trial(start(), [*tasks("die 0", 1, tokens=tokens), *tasks("sleep 0.2", 8, tokens=tokens)])
    trial.until(lambda: len(trial.results) == 8 and trial.set_aside)
    assert trial.set_aside == {"die 0 0"}
    assert (trial.count(ShardFate.CRASHED), trial.count(ShardFate.FAILED)) == (3, 0)
    lost = [name for name, fate, _ in trial.fates if fate is ShardFate.LOST]
    assert lost.count("die 0 0") in (3, 4), trial.fates  # the other worker may have taken it once more by then
    assert all("died measuring it" in reason for _, fate, reason in trial.fates if fate is ShardFate.CRASHED)


@pytest.mark.nightly
def test_a_machine_without_the_package_is_said_at_once(
    machines: Machines, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.add()
    monkeypatch.setattr("erasure_sweep.sweep.execution.ray.executor.shard_worker_actor", broken_worker)
    trial = Trial(start(), tasks("sleep 0", 3))
    with pytest.raises(
        SweepError, match=r"^no worker can measure: ModuleNotFoundError: No module named 'workers' \(every node "
    ):
        trial.until_measured(3)


@pytest.mark.nightly
def test_a_gpu_that_torch_does_not_find_is_said(
    machines: Machines, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.undo()
    machines.add(num_gpus=1)
    trial = Trial(start(device="cuda"), tasks("sleep 0", 3, 1.0))
    with pytest.raises(SweepError, match=r"^no worker can measure: Ray counts a GPU on .*, and torch finds none there"):
        trial.until_measured(3)


@pytest.mark.nightly
def test_a_cluster_that_is_gone_ends_the_run_with_one_line(tmp_path: Path) -> None:
    """Ray itself would end the driver after a minute, with a page of its own."""
    out, bench = tmp_path / "out", Bench(tmp_path)
    np.save(tmp_path / "long.npy", np.random.default_rng(2).integers(0, 97, (400, 16)))
    long = {"corpus": tmp_path / "long.npy", "prompts": 400, "stage": "scan"}
    with HandCluster() as cluster:
        cluster.add_worker()
        command = bench.command(out, workers=None, ray_address=cluster.address, **long)
        process = subprocess.Popen(
            command, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(list(out.rglob("*.state"))) >= 3, process)
        cluster.close()
        stdout, stderr = process.communicate()
    ran = bench.ran(process.returncode, stdout, stderr, out)
    assert ran.code == 1, ran.stderr
    assert ran.line.startswith(f"erasure-sweep: the Ray cluster at {cluster.address} is gone: ")
    assert len(ran.stderr.splitlines()) == 1 and "Traceback" not in ran.stderr
    assert_nothing_finished(ran, killed=True)
    assert ran.states == {"good": "FAILED"} and set(ran.runs.values()) == {"FAILED"}
    n_measured = len(ran.shards())
    (out / ".store" / "9f").mkdir(exist_ok=True)
    (out / ".store" / "9f" / f".{'9f' * 16}.state.0a1b2c3d.tmp").write_bytes(b"half of a state")
    again = bench.run(out, **long)
    bench.close()
    assert not list(out.rglob("*.tmp"))
    assert (again.code, again.states) == (0, {"good": "FINISHED"}), again.stderr
    assert f"good: 50 shards of scan, {n_measured} already measured" in again.stdout


@pytest.mark.nightly
def test_a_cluster_says_how_its_workers_compute(machines: Machines) -> None:
    """Before any shard has its id."""
    said: list[str] = []
    machines.add()
    cluster = connect(machines.address, None)
    try:
        found = cluster_numerics(cluster, 1, "cpu", said.append)
    finally:
        cluster.close()
    assert found == numerics_on("cpu")
    assert all(line.startswith("waiting for a first worker") for line in said)  # where the machine is busy
