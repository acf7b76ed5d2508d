"""From what a config names to staged models: checkpoints in order, repeats left out, corpora as the config says them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.staging import ModelStaging
from erasure_sweep.sweep.terminal.progress import SilentReporter
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.records import Resolved
from tests.support.models.random_models import random_config, tl_state_dict, write_tl_directory

SHAPE = {"n_layers": 1, "n_heads": 2, "d_model": 16, "n_ctx": 32, "d_vocab": 41}
TRAINING = {"tokens_per_step": 10, "max_tokens": 1000}


class Here:
    """Calls what the background process would call, in this one, and keeps the names."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def submit(self, function: Callable[[Any], Any], request: Any) -> Future[Any]:
        self.called.append(f"{function.__name__} {Path(request.spec).name}")
        future: Future[Any] = Future()
        future.set_result(function(request))
        return future


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Checkpoints of two seeds at 0 and 900 tokens, the later one the same as the final weights."""
    path = write_tl_directory(tmp_path / "m", 3, overrides=TRAINING, **SHAPE)
    (path / "checkpoints").mkdir()
    for label, seed in (("000", 1), ("090", 3)):
        save_file(tl_state_dict(random_config(**SHAPE), seed), path / "checkpoints" / f"{label}.safetensors")
    return path


@pytest.fixture
def corpora(tmp_path: Path) -> list[str]:
    """Two token arrays."""
    for name in ("one", "two"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(len(name)).integers(0, 41, (4, 8)))
    return [str(tmp_path / f"{name}.npy") for name in ("one", "two")]


def stage(tmp_path: Path, models: list[str], heard: Heard | None = None, **keys: Any) -> list[Resolved]:
    config = SweepConfig(models=models, prompts=2, seq_len=8, stage="scan", staging=str(tmp_path / "staging"), **keys)
    return ModelStaging(Run.of(config), Here()).finish(heard or Heard())  # type: ignore[arg-type]


def test_checkpoints_with_the_weights_of_another_are_left_out(model: Path, corpora: list[str], tmp_path: Path) -> None:
    heard = Heard()
    found = stage(tmp_path, [f"{model}@all"], heard, corpus=corpora[0])
    assert [one.name for one in found] == ["m@0", "m@900"]
    assert "m is left out: its weights are those of m@900" in heard.lines


def test_models_that_are_named_stay(model: Path, corpora: list[str], tmp_path: Path) -> None:
    heard = Heard()
    found = stage(tmp_path, [f"{model}@all", str(model)], heard, corpus=corpora[0])
    assert [one.name for one in found] == ["m@0", "m"]
    assert "m@900 is left out: its weights are those of m" in heard.lines
    with pytest.raises(UsageError, match="hold the same weights"):
        stage(tmp_path, [f"{model}@900", str(model)], corpus=corpora[0])


def test_checkpoints_are_listed_before_weights_are_converted(model: Path, corpora: list[str], tmp_path: Path) -> None:
    here = Here()
    config = SweepConfig(models=[str(model), f"{model}@log:1", f"{model}@all"], corpus=corpora[0], prompts=2, seq_len=8)
    run = Run.of(config.model_copy(update={"stage": "scan", "staging": str(tmp_path)}))
    ModelStaging(run, here).finish(Heard())  # type: ignore[arg-type]
    listed = ["list_checkpoints m@log:1", "list_checkpoints m@all"]
    assert here.called == [*listed, "resolve_model m", "resolve_model m@0", "resolve_model m@900"]


def test_own_corpora_of_what_stands_for_several(model: Path, corpora: list[str], tmp_path: Path) -> None:
    heard = Heard()
    own = {f"{model}@log:2": corpora[0], f"{model}@0": corpora[1], "x": corpora[1]}
    found = stage(tmp_path, [f"{model}@0", f"{model}@log:2"], heard, corpus="own", own_corpora=own)
    assert [(one.name, Path(one.corpus).name) for one in found] == [("m@0", "two.npy"), ("m@900", "one.npy")]
    assert "own_corpora: x is none of these models" in heard.lines
