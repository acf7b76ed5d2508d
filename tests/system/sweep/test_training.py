"""A sweep over the checkpoints of a bundled model, as a user asks for it: curves of erasure over training tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import erasure_sweep as es
from erasure_sweep.sweep.run import Run
from erasure_sweep.workers.errors import UsageError

SMALL: dict[str, Any] = {
    "corpus": "stdlib",
    "prompts": 8,
    "seq_len": 64,
    "positions": 16,
    "workers": 0,
    "stage": "scan",
}


@pytest.mark.nightly
def test_erasure_arises_in_training(tmp_path: Path) -> None:
    named = ["toy-gelu-4l@log:3", "toy-gelu-4l", "toy-gelu-4l@65536"]  # the last two are among the first
    config = es.load_config("training", {**SMALL, "models": named, "out": str(tmp_path / "out")})
    tables = es.run(config)
    manifest = Run.of(config).folder.read_manifest()
    assert manifest is not None
    tokens = {entry.name: entry.training_tokens for entry in manifest.models}
    assert tokens == {"toy-gelu-4l@65536": 2**16, "toy-gelu-4l@1048576": 2**20, "toy-gelu-4l": 2**24}
    assert {entry.base for entry in manifest.models} == {"toy-gelu-4l"}
    most = tables["writers"].groupby("model")["erased"].max()
    assert set(most.index) == set(tokens)
    assert most["toy-gelu-4l"] > 0.5
    assert most["toy-gelu-4l@65536"] < 0.3
    page = (tmp_path / "out" / "compare.html").read_text()
    assert 'id="training"' in page and "16.8 million" in page


def test_all_checkpoints_are_in_the_order_of_training() -> None:
    from erasure_sweep.sweep.helper.process import HelperProcess
    from erasure_sweep.sweep.staging import ModelStaging
    from erasure_sweep.sweep.terminal.progress import SilentReporter

    background = HelperProcess()
    try:
        config = es.load_config("training", {**SMALL, "prompts": 1})
        models = ModelStaging(Run.of(config), background).finish(SilentReporter())
        tokens = [model.training_tokens for model in models]
        assert tokens == [0, *(2**power for power in range(16, 25))]
        assert len({model.hash for model in models}) == len(models)
    finally:
        background.close()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("toy-gelu-4l@77", "there is no such checkpoint; toy-gelu-4l has checkpoints at 0, 65536"),
        ("toy-gelu-4l@log:0", "log:N takes a number"),
        ("toy-gelu-1l@all", "toy-gelu-1l has no checkpoints"),
        ("toy-gelu-4l@", "write NAME@POINT"),
    ],
)
def test_points_that_are_none(tmp_path: Path, model: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        es.run("training", **SMALL, models=[model], out=str(tmp_path / "out"))


def test_widths_of_one_depth_are_two_models(tmp_path: Path) -> None:
    tables = es.run("family", **SMALL, models=["toy-gelu-4l-w128", "toy-attn-2l"], out=str(tmp_path / "out"))
    writers: pd.DataFrame = tables["writers"]
    assert writers.groupby("model").size().to_dict() == {"toy-attn-2l": 2 + 2 * 4, "toy-gelu-4l-w128": 2 + 4 * (8 + 1)}
