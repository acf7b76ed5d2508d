"""When a cluster counts as gone: told by what Ray says of its nodes, and a clock."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from erasure_sweep.sweep.execution.ray.cluster import COUNT_S, GONE_S, ClusterNode, RayCluster, connect
from erasure_sweep.workers.errors import SweepError


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerHostname": f"host-{name}", "Alive": alive, "Resources": resources}


class Stage:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = [node("own", CPU=2.0), node("far", CPU=4.0, GPU=2.0)]
        monkeypatch.setattr("erasure_sweep.sweep.execution.ray.cluster._own_node", lambda: "own")
        monkeypatch.setattr(ray, "nodes", lambda: self.nodes)
        self.cluster = RayCluster("10.0.0.1:6379")

    def look(self, for_s: float, asks: bool = False) -> None:
        """As a driver's loop does, while the head answers or is silent."""
        for _ in range(int(for_s / COUNT_S)):
            self.cluster._count()
            if asks:
                self.cluster._ask()
            self.cluster.check()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_nodes_that_are_alive_count(stage: Stage):
    assert (stage.cluster.gpus, stage.cluster.host("far"), stage.cluster.is_alive("far")) == (2.0, "host-far", True)
    stage.nodes[1] = node("far", alive=False)
    stage.look(5.0, asks=True)
    assert (stage.cluster.gpus, stage.cluster.is_alive("far")) == (0.0, False)
    stage.look(10 * GONE_S, asks=True)


def test_a_head_that_is_silent_for_long_is_gone(stage: Stage):
    stage.look(GONE_S - 2)
    with pytest.raises(SweepError, match=r"^the Ray cluster at 10\.0\.0\.1:6379 is gone: .*run again$"):
        stage.look(4.0)
    assert stage.cluster.is_gone()


def test_a_head_that_answers_again_was_not_gone(stage: Stage):
    stage.look(GONE_S - 2)
    stage.look(1.0, asks=True)
    stage.look(GONE_S - 2)


def test_without_its_own_node_a_driver_hears_of_nobody(stage: Stage):
    stage.nodes[0] = node("own", alive=False)
    with pytest.raises(SweepError, match="is gone"):
        stage.look(5.0, asks=True)


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "share", "n"),
    [
        (8, 1, 1, 0.25, 4),
        (2, 1, 1, 0.25, 2),
        (8, 2, 1, 0.4, 4),
        (8, 1, 1, 1.0, 1),
        (8, 3, 2, 1.0, 3),
        (1, 1, 2, 1.0, 0),
        (8, 0, 3, 0.0, 2),
        (8, 0, 1, 0.5, 0),
        (0, 2, 1, 0.5, 0),
        (16, 10, 1, 0.1, 16),
        (16, 1, 1, 0.1, 10),
    ],
)
def test_how_many_workers_fit_on_a_machine(cpus: float, gpus: float, asked: int, share: float, n: int):
    assert ClusterNode("n", "host", cpus, gpus).capacity(asked, share) == n


def test_a_session_of_somebody_else_in_this_process_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("it is joined"))
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it is ended"))
    for address in (None, "local", "10.0.0.1:6379"):
        with pytest.raises(SweepError, match="Ray is already in use in this process"):
            connect(address, 1)


def test_a_cluster_is_left_once(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    left: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: left.append("once"))
    stage.cluster.close()
    stage.cluster.close()
    assert left == ["once"]
