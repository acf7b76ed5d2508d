"""``erasure-sweep replicate self-repair``: its plumbing, on random models; no published weights are at hand here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.sweep.commands.main import call
from erasure_sweep.sweep.replication.self_repair import COLUMNS, MODELS, published_heads
from tests.support.models.random_models import write_tl_directory


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("self-repair")
    write_tl_directory(root / "mine", seed=1, n_layers=2, n_heads=2, n_ctx=128)
    write_tl_directory(root / "gpt2", seed=2, n_layers=12, n_heads=12, n_ctx=128)
    np.save(root / "corpus.npy", np.random.default_rng(0).integers(0, 97, (3, 128)))
    return root


def replicate(place: Path, model: str, *flags: str) -> int:
    places = ("--corpus", str(place / "corpus.npy"), "--prompts", "2", "--out", str(place / f"out-{model}"))
    return call(["replicate", "self-repair", "--model", str(place / model), *places, *flags])


def test_the_published_table_adds_up() -> None:
    table = published_heads()
    assert set(table["model"]) == set(MODELS.values())
    whole = -(table["direct"] - table["direct_after_ablation"])
    whole += table["repair_by_final_norm"] + table["repair_by_heads"] + table["repair_by_mlps"]
    assert np.quantile(np.abs(whole - table["total_change"]), 0.99) < 0.05


def test_a_model_of_ones_own_stands_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replicate(place, "mine") == 0
    printed = capsys.readouterr().out
    assert "Nothing was published of this model" in printed and "total change" in printed
    table = pd.read_csv(place / "out-mine" / "self_repair.csv")
    assert len(table) == 2 * 4 and set(COLUMNS) <= set(table.columns)
    whole = -(table["direct"] - table["direct_after_ablation"])
    whole += table["repair_by_final_norm"] + table["repair_by_heads"] + table["repair_by_mlps"]
    np.testing.assert_allclose(whole, table["total_change"], atol=1e-4)


def test_a_model_that_was_published_stands_beside_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights in the shape of GPT-2 small: nothing should agree, and every head has its row."""
    assert replicate(place, "gpt2") == 0
    assert "Beside it stands gpt2-small" in capsys.readouterr().out
    table = pd.read_csv(place / "out-gpt2" / "self_repair.csv")
    assert len(table) == 2 * 144 and table["direct_published"].notna().all()
    of_all = table[table["tokens"] == "all"]
    assert abs(of_all["total_change"].corr(of_all["total_change_published"])) < 0.4
    expected = published_heads().query("model == 'gpt2-small' and tokens == 'top2pct' and head == 'L9H6'")["direct"]
    assert table.query("tokens == 'top2pct' and head == 'L9H6'")["direct_published"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--published", "gpt2-small"), "has 4 heads and gpt2-small 144"),
        (("--published", "gpt5"), "nothing was published of 'gpt5'"),
        (("--seq-len", "64"), "not --seq-len"),
        (("--dry-run",), "not --dry-run"),
        (("--prompts", "1"), "two prompts or more"),
    ],
)
def test_what_does_not_fit_is_one_line(
    place: Path, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert replicate(place, "mine", *flags) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1
