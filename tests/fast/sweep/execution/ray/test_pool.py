"""How many workers, with which share of a GPU: told by a cluster that is a list of nodes, workers that are marks, a clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from erasure_sweep.sweep.execution.ray.cluster import ClusterNode
from erasure_sweep.sweep.execution.ray.pool import WorkerPool
from erasure_sweep.sweep.execution.ray.worker_handle import WorkerHandle
from erasure_sweep.workers.records import WorkerProcess

CPU = 0.0


class FakeCluster:
    def __init__(self, *nodes: ClusterNode) -> None:
        self.nodes = nodes

    def is_alive(self, node: str) -> bool:
        return node in {each.id for each in self.nodes}


class Stage:
    """A pool, what it did, and a clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.ended: list[str] = []
        for module in ("pool", "worker_handle"):
            monkeypatch.setattr(
                f"erasure_sweep.sweep.execution.ray.{module}.time", SimpleNamespace(monotonic=lambda: self.now)
            )
        monkeypatch.setattr(WorkerHandle, "end", lambda worker: self.ended.append(worker.name))

    def set(
        self, *nodes: tuple[str, float, float], cpus: int = 1, bound: int | None = None, asks: bool = False
    ) -> None:
        self.cluster = FakeCluster(*(ClusterNode(name, name, *sizes) for name, *sizes in nodes))
        handle = SimpleNamespace(ping=SimpleNamespace(remote=object))
        self.pool = WorkerPool(self.cluster, cpus, bound, asks, lambda share: handle)

    def scale(self, after_s: float = 3.0, **waiting: int) -> None:
        self.now += after_s
        self.pool.scale({SHARES[name]: n for name, n in waiting.items()})

    def shares(self) -> list[float]:
        return sorted((worker.share for worker in self.pool), reverse=True)

    def answer(self, *nodes: str) -> None:
        """Those that are absent answer, from these nodes."""
        absent = [worker for worker in self.pool if worker.absent]
        for worker, node in zip(absent, nodes, strict=True):
            worker.present, worker.process, worker.pending = True, WorkerProcess(1, node, True), None

    def work(self, *names: str) -> None:
        for name in names:
            self.pool[name].task = object()  # type: ignore[assignment]


SHARES = {"whole": 1.0, "half": 0.5, "quarter": 0.25, "cpu": CPU}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.mark.parametrize(("waiting", "n"), [(1, 1), (3, 3), (50, 5)])
def test_as_many_as_shards_wait_and_there_is_room_for(stage: Stage, waiting: int, n: int):
    stage.set(("a", 2, 0), ("b", 3, 0))
    stage.scale(cpu=waiting)
    assert stage.shares() == [CPU] * n


def test_shards_that_are_measured_need_no_second_worker(stage: Stage):
    stage.set(("a", 9, 0))
    stage.scale(cpu=2)
    stage.answer("a", "a")
    stage.work("worker-0", "worker-1")
    stage.scale(cpu=3)
    assert len(stage.pool) == 5


def test_the_bound_holds_whatever_the_room(stage: Stage):
    stage.set(("a", 9, 0), bound=4)
    stage.scale(cpu=50)
    assert len(stage.pool) == 4


def test_what_is_asked_for_is_asked_for_without_room(stage: Stage):
    stage.set(("a", 1, 0), bound=4, asks=True)
    stage.scale(cpu=50)
    stage.scale(cpu=50)
    assert len(stage.pool) == 4
    assert stage.ended == []


def test_one_is_asked_for_where_there_is_no_room_at_all(stage: Stage):
    stage.set(("head", 0, 0))
    for _ in range(20):
        stage.scale(cpu=5)
    assert len(stage.pool) == 1


def test_big_models_take_whole_gpus_and_small_ones_share_what_is_left(stage: Stage):
    stage.set(("a", 8, 1), ("b", 8, 1))
    stage.scale(whole=1, quarter=9)
    assert stage.shares() == [1.0, 0.25, 0.25, 0.25, 0.25]


def test_nothing_is_done_twice_within_two_seconds_unless_a_share_has_no_worker(stage: Stage):
    stage.set(("a", 2, 2))
    stage.scale(quarter=1)
    stage.scale(0.5, quarter=2)
    assert stage.shares() == [0.25]
    stage.scale(0.5, quarter=2, whole=1)
    assert stage.shares() == [1.0, 0.25]


def test_idle_workers_stay_while_nobody_lacks_their_room(stage: Stage):
    stage.set(("a", 8, 2))
    stage.scale(quarter=4)
    stage.answer("a", "a", "a", "a")
    stage.scale()
    stage.scale(whole=1)
    assert stage.ended == [] and stage.shares() == [1.0, 0.25, 0.25, 0.25, 0.25]


def test_idle_workers_go_where_others_lack_their_room_busy_ones_do_not(stage: Stage):
    stage.set(("a", 8, 1), ("b", 8, 1))
    stage.scale(quarter=8)
    stage.answer("a", "a", "a", "a", "b", "b", "b", "b")
    stage.work("worker-0", "worker-1", "worker-2", "worker-3")
    stage.scale(whole=1)
    assert stage.ended == ["worker-4", "worker-5", "worker-6", "worker-7"]
    assert stage.shares() == [1.0, 0.25, 0.25, 0.25, 0.25]


def test_idle_workers_with_shards_of_their_own_stay(stage: Stage):
    stage.set(("a", 8, 1))
    stage.scale(quarter=4)
    stage.answer("a", "a", "a", "a")
    stage.scale(quarter=1, whole=5)
    assert stage.ended == [] and stage.shares() == [0.25] * 4


def test_no_more_idle_workers_go_than_others_need(stage: Stage):
    stage.set(("a", 8, 1))
    stage.scale(quarter=4)
    stage.answer("a", "a", "a", "a")
    stage.scale(half=1)
    assert len(stage.ended) == 2 and stage.shares() == [0.5, 0.25, 0.25]


def test_the_bound_is_made_room_in_as_well(stage: Stage):
    stage.set(("a", 8, 4), bound=2)
    stage.scale(quarter=4)
    stage.answer("a", "a")
    stage.scale(whole=1)
    assert stage.ended == ["worker-0"] and stage.shares() == [1.0, 0.25]


def test_a_worker_that_waits_for_a_gpu_in_pieces_gets_it(stage: Stage):
    """Ray has put two quarters on two GPUs of one machine, which cannot be seen from here."""
    stage.set(("a", 8, 2))
    stage.scale(quarter=2)
    stage.answer("a", "a")
    stage.work("worker-0", "worker-1")
    stage.scale(whole=2)
    for name in ("worker-0", "worker-1"):
        stage.pool[name].task = None
    stage.scale(5.0, whole=1)
    assert stage.ended == []
    stage.scale(6.0, whole=1)
    assert stage.ended == ["worker-0"]


def test_a_worker_that_finds_no_whole_gpu_keeps_no_room_from_others(stage: Stage):
    """Two halves on two machines leave two halves, and no whole one."""
    stage.set(("a", 8, 1), ("b", 8, 1))
    stage.scale(half=2)
    stage.answer("a", "b")
    stage.work("worker-0", "worker-1")
    stage.scale(whole=1, half=2)
    assert stage.shares() == [1.0, 0.5, 0.5]
    stage.scale(11.0, whole=1, half=2)
    assert stage.shares()[-4:] == [0.5, 0.5, 0.5, 0.5]
    for worker in stage.pool:
        if worker.share == 0.5:
            worker.present, worker.process, worker.task = True, WorkerProcess(1, "a", True), None
    stage.scale(whole=1)
    assert stage.shares()[0] == 1.0


def test_workers_that_take_their_time_to_start_are_not_ended_for_one_without_a_place(stage: Stage):
    """A whole GPU is waited for while quarters lie on both: the quarters that are just starting stay."""
    stage.set(("a", 16, 1), ("b", 16, 1))
    stage.scale(quarter=2)
    stage.answer("a", "b")
    stage.work("worker-0", "worker-1")
    for _ in range(6):
        stage.scale(whole=1, quarter=9)
    starting = [worker.name for worker in stage.pool if worker.share == 0.25 and worker.absent]
    assert starting
    stage.scale(whole=1, quarter=9)
    assert not set(starting) & set(stage.ended)
    assert stage.shares().count(0.25) == 8


def test_nodes_that_join_are_used(stage: Stage):
    stage.set(("a", 1, 0))
    stage.scale(cpu=5)
    stage.answer("a")
    stage.work("worker-0")
    stage.cluster.nodes += (ClusterNode("b", "b", 2, 0),)
    stage.scale(cpu=4)
    assert len(stage.pool) == 3


def test_where_nodes_left_workers_without_a_place_go_but_not_those_asked_for(stage: Stage):
    for asks, left in ((False, 1), (True, 3)):
        stage.set(("a", 1, 0), ("b", 2, 0), bound=3, asks=asks)
        stage.scale(cpu=9)
        stage.answer("a", "b", "b")
        stage.work("worker-0")
        stage.cluster.nodes = stage.cluster.nodes[:1]
        stage.scale(cpu=9)
        stage.scale(11.0, cpu=9)
        assert len(stage.pool) == left
        assert stage.pool["worker-0"].present


def test_the_last_worker_waits_for_a_node_to_come(stage: Stage):
    stage.set(("a", 2, 0))
    stage.scale(cpu=9)
    stage.answer("a", "a")
    stage.cluster.nodes = ()
    for _ in range(10):
        stage.scale(cpu=9)
    assert len(stage.pool) == 1
    assert next(iter(stage.pool)).absent and len(stage.ended) == 1
    stage.cluster.nodes = (ClusterNode("b", "b", 3, 0),)
    stage.scale(cpu=9)
    assert len(stage.pool) == 3


def test_no_machine_is_started_for_shards_that_others_have_measured(stage: Stage):
    stage.set(("a", 1, 0), bound=4, asks=True)
    stage.scale(cpu=4)
    next(worker for worker in stage.pool if worker.name == "worker-0").present = True
    stage.work("worker-0")
    stage.scale(5.0, cpu=1)
    assert stage.ended == []
    stage.scale(6.0, cpu=1)
    assert len(stage.pool) == 2
    stage.scale(cpu=0)
    assert [worker.name for worker in stage.pool] == ["worker-0"]


def test_an_unfit_worker_counts_until_its_node_is_gone(stage: Stage):
    stage.set(("a", 1, 1), ("b", 1, 1))
    stage.scale(whole=5)
    stage.answer("a", "b")
    stage.pool["worker-0"].unfit = "no driver"
    stage.scale(whole=5)
    assert stage.shares() == [1.0, 1.0]
    stage.cluster.nodes = (*stage.cluster.nodes[1:], ClusterNode("c", "c", 1, 1))
    stage.scale(whole=5)
    assert stage.ended == ["worker-0"] and stage.shares() == [1.0, 1.0]
