"""One contract for every executor: an idle worker takes a shard, ``wait`` says what became of it, failures are reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from erasure_sweep.sweep.execution.executor import Executor, LateExecutor, LocalExecutor, ShardFate, ShardReport
from erasure_sweep.workers.models.resolution import resolve_model
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


@pytest.fixture(params=["local", "late", pytest.param("ray", marks=pytest.mark.xdist_group("ray"))])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "local":
        made: Executor = LocalExecutor(threads=1)
    elif request.param == "late":
        made = LateExecutor(lambda: LocalExecutor(threads=1))
    else:
        from erasure_sweep.sweep.execution.ray.executor import RayExecutor
        from erasure_sweep.sweep.execution.ray.session import connect

        made = RayExecutor(connect(None, 1), workers=1, max_workers=None, cpus=1, deadline_s=120.0)
    yield made
    made.close()


def run_one(executor: Executor, task: ShardTask) -> ShardReport:
    """Wait for an idle worker, give it the shard, wait for the report."""
    for _ in range(600):
        executor.scale({task.gpus: 1})
        if executor.idle():
            break
        executor.wait(0.2)
    executor.submit(executor.idle()[0], task)
    for _ in range(600):
        if outcomes := executor.wait(0.2):
            return outcomes[0]
    raise AssertionError("no report came in")


def test_a_shard_is_measured_and_the_worker_keeps_its_model(executor: Executor, task: ShardTask) -> None:
    first = run_one(executor, task)
    assert first.fate is ShardFate.MEASURED and first.task == task and first.result is not None
    assert decode_state(first.result.state, "projection")["n_tokens"] == 4 * 16
    assert [worker.model_hash for worker in executor.idle()] == [task.model_hash]
    assert executor.holders() == {task.model_hash: 1}
    again = run_one(executor, task)
    assert again.result is not None and again.result.state == first.result.state


def test_a_shard_that_raises_is_a_report_with_its_traceback(executor: Executor, task: ShardTask) -> None:
    outcome = run_one(executor, task._replace(first_prompt=6))
    assert outcome.fate is ShardFate.FAILED
    assert "Traceback" in outcome.reason and "ends before prompt 10" in outcome.reason.splitlines()[-1]
    assert run_one(executor, task).fate is ShardFate.MEASURED


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


def test_nothing_to_wait_for_is_no_report(executor: Executor) -> None:
    executor.scale({0.0: 1})
    for _ in range(100):
        if executor.idle():
            break
        executor.wait(0.2)
    assert executor.idle()
    assert executor.wait(0.01) == []


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
    states = [decode_state(result.state, "projection") for result in (outcome.result, whole.result)]
    np.testing.assert_allclose(states[0]["comoment"], states[1]["comoment"], rtol=1e-4, atol=1e-4)


def test_a_cluster_that_is_not_there_is_one_line_at_once() -> None:
    from erasure_sweep.sweep.execution.ray.session import connect
    from erasure_sweep.workers.errors import SweepError

    with pytest.raises(
        SweepError, match=r"no Ray cluster answers at 127\.0\.0\.1:9: .*\(--workers 0 measures without Ray\)"
    ):
        connect("127.0.0.1:9", None)
