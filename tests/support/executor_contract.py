"""One contract for every executor: an idle worker takes a shard, ``wait`` says what became of it, failures are reports."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.sweep.execution.executor import Executor, ShardFate, ShardReport
from erasure_sweep.workers.models.resolve_model import resolve_model
from erasure_sweep.workers.records import ScanOptions, ScanWork, ShardTask, WriterBlock
from erasure_sweep.workers.storage.states import decode_state
from tests.support.models.random_models import write_tl_directory


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ShardTask:
    folder = tmp_path_factory.mktemp("executors")
    model = resolve_model(str(write_tl_directory(folder / "model")), folder / "staging")
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, 97, (8, 16)).astype(np.int32))
    writers = WriterBlock(0, len(model.config.layout.writers))
    return ShardTask(
        id="s0",
        stage="scan",
        model_hash=model.hash,
        weights=str(model.weights),
        tokens=str(folder / "tokens.npy"),
        first_prompt=0,
        n_prompts=4,
        positions=None,
        seed=0,
        work=ScanWork(writers, ScanOptions()),
        batch=2,
        device="cpu",
        dtype="float32",
    )


def run_one(executor: Executor, task: ShardTask) -> ShardReport:
    """Wait for an idle worker, give it the shard, wait for the report."""
    while not executor.idle():
        executor.scale({task.gpus: 1})
        executor.wait(0.2)
    executor.submit(executor.idle()[0], task)
    while not (outcomes := executor.wait(0.2)):
        pass
    return outcomes[0]


class ExecutorContract:
    """Classes of tests that inherit it have a fixture ``executor``, and bring ``task`` into their module."""

    def test_a_shard_is_measured_and_the_worker_keeps_its_model(self, executor: Executor, task: ShardTask) -> None:
        first = run_one(executor, task)
        assert first.fate is ShardFate.MEASURED and first.task == task and first.result is not None
        assert decode_state(first.result.state, first.task.id, "projection")["n_tokens"] == 4 * 15
        assert [worker.model_hash for worker in executor.idle()] == [task.model_hash]
        assert executor.holders() == {task.model_hash: 1}
        again = run_one(executor, task)
        assert again.result is not None and again.result.state == first.result.state

    def test_a_shard_that_raises_is_a_report_with_its_traceback(self, executor: Executor, task: ShardTask) -> None:
        outcome = run_one(executor, task._replace(first_prompt=6))
        assert outcome.fate is ShardFate.FAILED
        assert "Traceback" in outcome.reason and "ends before prompt 10" in outcome.reason.splitlines()[-1]
        assert run_one(executor, task).fate is ShardFate.MEASURED

    def test_nothing_to_wait_for_is_no_report(self, executor: Executor) -> None:
        while not executor.idle():
            executor.scale({0.0: 1})
            executor.wait(0.2)
        assert executor.wait(0.01) == []
