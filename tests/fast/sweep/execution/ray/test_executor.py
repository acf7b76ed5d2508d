"""What is held against a shard that Ray lost: told by what Ray raises, where the worker answers from, and a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import exceptions

from erasure_sweep.sweep.execution.executor import ShardFate, ShardReport
from erasure_sweep.sweep.execution.ray.cluster import ClusterNode
from erasure_sweep.sweep.execution.ray.executor import NODE_GONE_S, RayExecutor
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import (
    Numerics,
    ScanOptions,
    ScanWork,
    ShardResult,
    ShardTask,
    WorkerProcess,
    WriterBlock,
)

TASK = ShardTask(
    "s0", "scan", "m", "w", "t", 0, 1, None, 0, ScanWork(WriterBlock(0, 1), ScanOptions()), 1, "cpu", "float32"
)
HERE, RESTARTED, MOVED = WorkerProcess(1, "a", False), WorkerProcess(2, "a", False), WorkerProcess(3, "b", False)


class FakeCluster:
    started_here = True

    def __init__(self) -> None:
        self.nodes = (ClusterNode("a", "anna", 1, 1), ClusterNode("b", "berta", 1, 1))

    def is_alive(self, node: str) -> bool:
        return node in {each.id for each in self.nodes}

    def host(self, node: str) -> str:
        return {"a": "anna", "b": "berta"}[node]

    def gone(self) -> SweepError:
        return SweepError("gone")

    def watch(self) -> None: ...

    def check(self) -> None: ...


class Stage:
    """One executor whose actor answers what ``answers`` says, one after the other."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        device: str = "cpu",
        deadline_s: float = 60.0,
        numerics: Numerics | None = None,
    ) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.answers: list[object] = []
        """What ``ray.get`` returns next, or raises."""
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=lambda s: None)
        for module in ("pool", "worker_handle", "executor"):
            monkeypatch.setattr(f"erasure_sweep.sweep.execution.ray.{module}.time", clock)
        monkeypatch.setattr(ray, "wait", lambda refs, num_returns, timeout: (refs if self.answers else [], []))
        monkeypatch.setattr(ray, "get", self._get)
        self.kills: list[bool] = []
        monkeypatch.setattr(ray, "kill", lambda handle, no_restart=True: self.kills.append(no_restart))
        method = SimpleNamespace(remote=lambda *told: object())
        handle = SimpleNamespace(ping=method, measure_remote=method)
        actor = SimpleNamespace(options=lambda **asked: SimpleNamespace(remote=lambda threads: handle))
        monkeypatch.setattr("erasure_sweep.sweep.execution.ray.executor.shard_worker_actor", lambda *told: actor)
        self.cluster = FakeCluster()
        more = {"say": self.said.append, "numerics": numerics}
        self.executor = RayExecutor(self.cluster, None, 1, 1, deadline_s, device, **more)  # type: ignore[arg-type]
        self.executor.scale({0.0: 1})

    def _get(self, reference: object) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def hear(self, answer: object, after_s: float = 1.0) -> list[ShardReport]:
        self.now += after_s
        self.answers = [answer]
        return self.executor.wait(0.1)

    def quiet(self, after_s: float) -> list[ShardReport]:
        self.now += after_s
        return self.executor.wait(0.1)

    def submit(self) -> None:
        """A shard for the worker, which stands where ``HERE`` says."""
        assert self.hear(HERE) == []
        self.executor.submit(self.executor.idle()[0], TASK)

    def lose(self, error: Exception) -> None:
        """The shard, to this error: it is only known to be lost."""
        self.submit()
        (outcome,) = self.hear(error)
        assert (outcome.task, outcome.fate) == (TASK, ShardFate.LOST)
        assert self.executor.idle() == [] and self.executor.holders() == {}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield Stage(monkeypatch)


GONE = exceptions.ActorUnavailableError("The actor was restarted", b"0" * 16)
NO_MEMORY = exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nDetails: …")
NO_RESULT = exceptions.ObjectLostError("ab" * 28, None, "")


def died(what: str) -> Exception:
    """An actor that Ray will not restart."""
    error = exceptions.ActorDiedError()
    error.error_msg = what
    return error


def test_a_process_that_died_on_a_node_that_lives_is_charged(stage: Stage):
    stage.lose(GONE)
    assert stage.hear(GONE) == []
    (outcome,) = stage.hear(RESTARTED)
    assert (outcome.task, outcome.fate) == (TASK, ShardFate.CRASHED)
    assert outcome.reason.splitlines()[-1].startswith("the worker's process on anna died measuring it")
    assert len(stage.executor.idle()) == 1


def test_rays_memory_monitor_is_a_reason(stage: Stage):
    stage.lose(NO_MEMORY)
    (outcome,) = stage.hear(RESTARTED)
    assert outcome.fate is ShardFate.CRASHED and outcome.reason.endswith(
        "(Task was killed due to the node running low on memory.)"
    )


def test_a_node_that_is_gone_is_not(stage: Stage):
    stage.lose(GONE)
    stage.cluster.nodes = stage.cluster.nodes[1:]
    assert stage.hear(MOVED) == []
    assert len(stage.executor.idle()) == 1
    assert stage.quiet(10 * NODE_GONE_S) == []


def test_nor_one_that_is_noticed_late(stage: Stage):
    stage.lose(GONE)
    assert stage.hear(MOVED) == []
    assert stage.quiet(NODE_GONE_S / 2) == []
    stage.cluster.nodes = stage.cluster.nodes[1:]
    assert stage.quiet(NODE_GONE_S) == []


def test_a_worker_that_only_moved_is_charged_once_that_is_sure(stage: Stage):
    stage.lose(GONE)
    assert stage.hear(MOVED) == []
    assert stage.quiet(NODE_GONE_S / 2) == []
    assert [outcome.fate for outcome in stage.quiet(NODE_GONE_S)] == [ShardFate.CRASHED]
    assert stage.quiet(NODE_GONE_S) == []


def test_a_worker_that_was_out_of_reach_is_not_charged(stage: Stage):
    stage.lose(GONE)
    assert stage.hear(HERE) == []
    assert stage.quiet(10 * NODE_GONE_S) == []


def test_a_result_that_is_lost_with_its_node_is_not_charged_one_that_cannot_be_had_is(stage: Stage):
    stage.lose(NO_RESULT)
    (outcome,) = stage.hear(HERE)
    assert outcome.fate is ShardFate.CRASHED and "could not be had" in outcome.reason
    stage.executor.submit(stage.executor.idle()[0], TASK)
    assert [outcome.fate for outcome in stage.hear(NO_RESULT)] == [ShardFate.LOST]
    stage.cluster.nodes = stage.cluster.nodes[1:]
    assert stage.hear(MOVED) == []
    assert stage.quiet(10 * NODE_GONE_S) == []


@pytest.mark.parametrize("error", [exceptions.RaySystemError("cannot be unpickled"), exceptions.TaskCancelledError()])
def test_whatever_else_ray_says_is_a_failed_shard(stage: Stage, error: Exception):
    stage.submit()
    (outcome,) = stage.hear(error)
    assert outcome.fate is ShardFate.FAILED and outcome.reason
    assert len(stage.executor.idle()) == 1
    stage.executor.submit(stage.executor.idle()[0], TASK)
    assert stage.hear(ShardResult("s0", b"", 1))[0].fate is ShardFate.MEASURED


def test_a_deadline_is_charged_unless_the_node_is_gone(stage: Stage):
    stage.submit()
    assert stage.quiet(59.0) == []
    (outcome,) = stage.quiet(2.0)
    assert outcome.fate is ShardFate.FAILED and outcome.reason == "not measured within 60 s (shard_deadline_s)"
    assert stage.kills == [False] and stage.executor.idle() == []
    assert stage.hear(RESTARTED) == []
    stage.executor.submit(stage.executor.idle()[0], TASK)
    stage.cluster.nodes = stage.cluster.nodes[1:]
    assert [outcome.fate for outcome in stage.quiet(61.0)] == [ShardFate.LOST]


def test_a_worker_that_cannot_start_says_why(stage: Stage):
    error = died("The actor died in its creation task\nTraceback\nModuleNotFoundError: No module named 'workers'")
    with pytest.raises(
        SweepError, match=r"^no worker can measure: ModuleNotFoundError: No module named 'workers' \(every node "
    ):
        stage.hear(error)


def test_a_worker_that_was_killed_for_good_is_replaced(stage: Stage):
    assert stage.hear(HERE) == []
    stage.executor.submit(stage.executor.idle()[0], TASK)
    error = died("The actor was killed by `ray.kill`")
    assert [outcome.fate for outcome in stage.hear(error)] == [ShardFate.LOST]
    assert stage.hear(error) == []
    stage.executor.scale({0.0: 1})
    assert stage.hear(RESTARTED) == []
    assert len(stage.executor.idle()) == 1


def test_a_gpu_that_torch_does_not_find(monkeypatch: pytest.MonkeyPatch):
    stage = Stage(monkeypatch, "cuda")
    with pytest.raises(SweepError, match=r"^no worker can measure: Ray counts a GPU on anna, .*--device cpu$"):
        stage.hear(HERE)


def test_a_worker_that_computes_otherwise_gets_no_shards(monkeypatch: pytest.MonkeyPatch):
    wanted = Numerics("cpu", "AVX2", "2.9.0")
    stage = Stage(monkeypatch, numerics=wanted)
    with pytest.raises(SweepError, match=r"^no worker can measure: anna computes otherwise .*\(DEFAULT against AVX2\)"):
        stage.hear(HERE._replace(numerics=wanted._replace(unit="DEFAULT")))
    assert len(stage.said) == 1 and stage.said[0].startswith("a worker gets no shards: anna computes otherwise")
    alike = Stage(monkeypatch, numerics=wanted)
    assert alike.hear(HERE._replace(numerics=wanted)) == [] and len(alike.executor.idle()) == 1


def test_no_answer_for_long_ends_the_sweep(stage: Stage):
    assert stage.quiet(299.0) == []
    with pytest.raises(SweepError, match="no worker has answered for 301 s"):
        stage.quiet(2.0)


def test_the_only_worker_is_replaced_however_long_it_hung(monkeypatch: pytest.MonkeyPatch):
    stage = Stage(monkeypatch, deadline_s=3600.0)
    stage.submit()
    assert stage.quiet(3599.0) == []
    assert [outcome.fate for outcome in stage.quiet(2.0)] == [ShardFate.FAILED]
    assert stage.quiet(1.0) == []
    assert stage.hear(RESTARTED) == []
    assert len(stage.executor.idle()) == 1


def test_the_only_worker_may_die_after_it_measured_for_long(monkeypatch: pytest.MonkeyPatch):
    stage = Stage(monkeypatch, deadline_s=3600.0)
    stage.submit()
    assert stage.quiet(2000.0) == []
    assert [outcome.fate for outcome in stage.hear(GONE)] == [ShardFate.LOST]
    assert stage.quiet(1.0) == []
    assert [outcome.fate for outcome in stage.hear(RESTARTED)] == [ShardFate.CRASHED]


def test_a_full_cluster_is_waited_for_and_that_is_said_once(stage: Stage):
    stage.cluster.started_here = False
    for _ in range(5):
        assert stage.quiet(3000.0) == []
    assert stage.said == [
        "no worker has a place on the cluster yet: it is full, or starts machines (`ray status` shows it)"
    ]
    assert stage.hear(HERE) == []
    assert len(stage.executor.idle()) == 1


@pytest.mark.parametrize("error", [NO_MEMORY, exceptions.WorkerCrashedError(), GONE], ids=lambda e: type(e).__name__)
def test_a_worker_that_is_killed_while_it_starts_is_asked_again(stage: Stage, error: Exception):
    assert stage.hear(error) == []
    assert stage.hear(HERE) == []
    assert len(stage.executor.idle()) == 1


def test_a_worker_that_is_ended_before_it_answers_is_charged_all_the_same(stage: Stage):
    """At a sweep's end no other shard waits, so nothing waits for the one that restarts slowly."""
    stage.lose(GONE)
    stage.now += 11.0
    stage.executor.scale({0.0: 0})
    assert stage.quiet(1.0) == []
    (outcome,) = stage.quiet(NODE_GONE_S)
    assert (outcome.task, outcome.fate) == (TASK, ShardFate.CRASHED)


def test_files_of_models_that_are_through_are_let_go_of(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    put: list[bytes] = []
    monkeypatch.setattr(ray, "put", lambda content: put.append(content) or len(put))
    stage.cluster.started_here = False
    for name in ("one", "two", "tokens", "means"):
        (tmp_path / name).write_text(name)
    assert stage.hear(HERE) == []
    tokens, means = str(tmp_path / "tokens"), str(tmp_path / "means")
    for name in ("one", "one", "two"):
        task = TASK._replace(weights=str(tmp_path / name), tokens=tokens, means=means)
        stage.executor.submit(stage.executor.idle()[0], task)
        assert stage.hear(ShardResult("s0", b"", 1))[0].fate is ShardFate.MEASURED
    assert put == [b"one", b"tokens", b"means", b"two", b"tokens", b"means"]
    assert stage.executor._files.keys() == {str(tmp_path / "two"), tokens, means}


def test_a_cluster_that_cannot_be_asked_is_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    def broken(*told: object, **more: object) -> None:
        raise ConnectionError("the client is disconnected")

    monkeypatch.setattr(ray, "wait", broken)
    with pytest.raises(SweepError, match=r"^gone$"):
        stage.quiet(1.0)
