"""Executors without Ray, and the one that starts late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from erasure_sweep.sweep.execution.executor import Executor, LateExecutor, LocalExecutor, ShardFate
from erasure_sweep.workers.records import ShardTask
from erasure_sweep.workers.storage.states import decode_state
from tests.support.executor_contract import ExecutorContract, run_one, task

__all__ = ["task"]


class TestLocal(ExecutorContract):
    @pytest.fixture(params=["local", "late"])
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        made: Executor = LocalExecutor(threads=1)
        if request.param == "late":
            made = LateExecutor(lambda: LocalExecutor(threads=1))
        yield made
        made.close()


def test_workers_start_when_shards_wait(task: ShardTask) -> None:
    started: list[Executor] = []

    def start() -> Executor:
        started.append(LocalExecutor(threads=1))
        return started[-1]

    executor = LateExecutor(start)
    executor.scale({})
    assert (executor.wait(0.01), executor.holders(), executor.idle()) == ([], {}, [])
    executor.close()
    assert started == []
    assert run_one(executor, task).fate is ShardFate.MEASURED
    assert len(started) == 1 and executor.holders() == {task.model_hash: 1}


def test_a_file_that_is_no_model_is_a_failed_shard(task: ShardTask, tmp_path: Path) -> None:
    import torch

    save_file({"W_E": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    outcome = run_one(LocalExecutor(1), task._replace(model_hash="other", weights=str(tmp_path / "w.safetensors")))
    assert outcome.fate is ShardFate.FAILED


def test_out_of_gpu_memory_halves_the_batch(task: ShardTask, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from erasure_sweep.workers.models.forward import LeanModel

    trace, batches = LeanModel.trace, []

    def hungry(self, tokens, positions=None, keep_resid=False):
        batches.append(len(tokens))
        if len(tokens) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return trace(self, tokens, positions, keep_resid)

    whole = run_one(LocalExecutor(1), task)
    monkeypatch.setattr(LeanModel, "trace", hungry)
    outcome = run_one(LocalExecutor(1), task._replace(batch=4))
    assert outcome.fate is ShardFate.MEASURED and outcome.result is not None and whole.result is not None
    assert batches == [4, 2, 1, 1, 1, 1]
    assert outcome.result.batch == 1
    states = [decode_state(result.state, task.id, "projection") for result in (outcome.result, whole.result)]
    np.testing.assert_allclose(states[0]["comoment"], states[1]["comoment"], rtol=1e-4, atol=1e-4)
