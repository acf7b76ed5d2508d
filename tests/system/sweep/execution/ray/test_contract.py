"""The contract of executors, kept by the one whose workers are Ray actors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erasure_sweep.sweep.execution.executor import Executor, ShardFate
from erasure_sweep.sweep.execution.ray.cluster import connect
from erasure_sweep.sweep.execution.ray.executor import RayExecutor
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import ShardTask
from tests.support.executor_contract import ExecutorContract, run_one, task
from tests.support.numerics import numerics_in_another_process

__all__ = ["task"]

pytestmark = pytest.mark.xdist_group("ray")


class TestRay(ExecutorContract):
    @pytest.fixture(scope="class")
    def executor(self) -> Iterator[Executor]:
        made = RayExecutor(connect(None, 1), workers=1, max_workers=None, cpus=1, deadline_s=1200.0)
        yield made
        made.close()


@pytest.mark.nightly
def test_a_cpu_that_can_do_more_is_held_to_the_sweeps(task: ShardTask) -> None:
    """A sweep that was begun on a lesser CPU goes on here, in the same digits."""
    less = numerics_in_another_process(ATEN_CPU_CAPABILITY="default")
    executor = RayExecutor(connect(None, 1), 1, None, 1, 1200.0, numerics=less)
    try:
        assert run_one(executor, task).fate is ShardFate.MEASURED
    finally:
        executor.close()


def test_a_cluster_that_is_not_there_is_one_line_at_once() -> None:
    with pytest.raises(
        SweepError, match=r"no Ray cluster answers at 127\.0\.0\.1:9: .*\(--workers 0 measures without Ray\)"
    ):
        connect("127.0.0.1:9", None)
