"""How often a cluster of this machine is started."""

from __future__ import annotations

from typing import Any

import pytest

from erasure_sweep.sweep.execution.ray import local_cluster


@pytest.mark.parametrize(
    ("errors", "tries"),
    [
        ([], 1),
        (["The current node timed out during startup. This could happen because"], 2),
        (["The current node timed out during startup."] * 2, 2),
        (["Permission denied"], 1),
    ],
)
def test_a_busy_machine_is_asked_twice(errors: list[str], tries: int, monkeypatch: pytest.MonkeyPatch):
    left, started = list(errors), []

    def start(cpus: int, options: dict[str, Any]) -> str:
        started.append((cpus, options))
        if left:
            raise RuntimeError(left.pop(0))
        return "cluster"

    monkeypatch.setattr(local_cluster, "LocalCluster", start)
    if len(errors) == tries:
        with pytest.raises(RuntimeError, match=errors[-1].split(".")[0]):
            local_cluster.start_local_cluster(3, {})
    else:
        assert local_cluster.start_local_cluster(3, {}) == "cluster"
    assert started == [(3, {})] * tries
