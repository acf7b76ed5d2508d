"""Placebos are drawn once in a worker, for all shards that ask for them, and are the same as if each shard drew its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from erasure_sweep.workers.measures.interventions import placebos
from erasure_sweep.workers.records import GroupWork, NullErasers, PlaceboWork, ShardTask, Target, Work
from erasure_sweep.workers.storage.staged_arrays import write_array
from erasure_sweep.workers.worker import ShardWorker
from tests.support.models.random_models import random_lean

WRITERS, DRAWS, BLOCK = ("L0H0", "MLP0"), 3, 2


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ShardTask]:
    """Two shards of the stage that finds nulls' groups, and two of verify's."""
    config, _, model = random_lean(3, 2, 2, 12)
    monkeypatch.setattr("erasure_sweep.workers.worker.load_model", lambda *_: (None, model))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.d_vocab, (2 * BLOCK, 12)).astype(np.int32)
    np.save(tmp_path / "tokens.npy", tokens)
    weights, d_model = tmp_path / "models" / "m.safetensors", config.d_model
    roots = rng.normal(size=(2, d_model, d_model))
    (tmp_path / "means").mkdir()
    covariance = write_array(weights, roots @ roots.transpose(0, 2, 1))
    means = write_array(weights, np.zeros((len(config.layout.terms), d_model)))
    nulls = tuple(NullErasers(w, "placebo", str(d + 1), ("L1H0",)) for w in WRITERS for d in range(DRAWS))
    group = GroupWork(tuple(Target(w, ("L1H1",), "named") for w in WRITERS), 1, DRAWS, nulls)

    def task(stage: str, work: Work, first: int) -> ShardTask:
        files = ("hash", str(weights), str(tmp_path / "tokens.npy"))
        made = ShardTask(f"{stage}{first}", stage, *files, first, BLOCK, None, 5, work, 2, "cpu", "float32")
        return made._replace(means=means.path, covariance=covariance.path)

    found = PlaceboWork(WRITERS, DRAWS)
    return [task(stage, work, first) for stage, work in (("placebo", found), ("group", group)) for first in (0, BLOCK)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A writer for each of its draws."""
    writers: list[str] = []
    gaussian = placebos.gaussian

    def noted(seed: int, layout: object, writer: str, *rest: object) -> np.ndarray:
        writers.append(writer)
        return gaussian(seed, layout, writer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(placebos, "gaussian", noted)
    return writers


def test_are_drawn_once_in_a_worker_and_change_no_bit(tasks: list[ShardTask], drawn: list[str]) -> None:
    worker, threads = ShardWorker(torch.get_num_threads()), torch.get_num_threads()
    kept = [worker.measure(task).state for task in tasks]
    assert sorted(drawn) == sorted(WRITERS * DRAWS)
    anew = [ShardWorker(threads).measure(task).state for task in tasks]
    assert len(drawn) == (1 + len(tasks)) * len(WRITERS) * DRAWS
    assert kept == anew


def test_are_drawn_anew_of_another_seed_covariance_or_number(
    tasks: list[ShardTask], drawn: list[str], tmp_path: Path
) -> None:
    task, worker = tasks[0], ShardWorker(torch.get_num_threads())
    d_model = np.load(str(task.covariance)).shape[-1]
    other = write_array(Path(task.weights), np.tile(np.eye(d_model), (2, 1, 1)))
    tried = [task, task._replace(seed=6), task._replace(covariance=other.path)]
    tried.append(task._replace(work=PlaceboWork(WRITERS, DRAWS - 1)))
    states = [worker.measure(each).state for each in tried]
    assert len(drawn) == (3 * DRAWS + DRAWS - 1) * len(WRITERS)
    assert len(set(states)) == len(tried)
    assert [ShardWorker(torch.get_num_threads()).measure(each).state for each in tried] == states
