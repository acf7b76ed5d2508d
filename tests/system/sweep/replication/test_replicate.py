"""``erasure-sweep replicate`` from the command to what it leaves, on a random model of gelu-4l's layers and heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.sweep.commands import main
from erasure_sweep.workers.models.catalog import BUNDLED
from tests.support.models.random_models import write_tl_directory

N_PROMPTS, SEQ_LEN = 4, 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replicate")
    write_tl_directory(root / "like-4l", seed=1, n_layers=4, n_heads=8)
    write_tl_directory(root / "worded", seed=2, n_layers=4, n_heads=8, d_vocab=2048)
    shutil.copy(BUNDLED / "tokenizer" / "tokenizer.json", root / "worded")
    write_tl_directory(root / "small", seed=3, n_layers=3, n_heads=8)
    np.save(root / "corpus.npy", np.random.default_rng(0).integers(0, 97, (8, SEQ_LEN)))
    return root


def replicate(place: Path, model: str, *flags: str) -> int:
    """The command's exit code; measured in this process."""
    protocol = ("--corpus", str(place / "corpus.npy"), "--prompts", str(N_PROMPTS), "--seq-len", str(SEQ_LEN))
    places = ("--out", str(place / f"out-{model}"), "--tracking-uri", f"sqlite:///{place}/mlflow.db")
    return main.call(["replicate", "--model", str(place / model), *protocol, *places, "--workers", "0", *flags])


def test_published_numbers_beside_measured_ones(place: Path, capsys: pytest.CaptureFixture[str]):
    assert replicate(place, "like-4l") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "like-4l is another model than gelu-4l" in printed
    assert "L0H2 of like-4l on 4 prompts × 40 tokens, every position (scan), and on 4 prompts that the scan" in printed
    assert "the model has no tokenizer: 16 numbers of the adversarial prompts" in printed

    out = place / "out-like-4l"
    table = pd.read_csv(out / "replication.csv")
    tables = {path.stem: pd.read_parquet(path) for path in (out / "like-4l" / "tables").glob("*.parquet")}
    check_residuals(table, tables["residual_projection"])
    check_group(table, tables)
    missing = table[table["measured"].isna()]
    assert set(missing["topic"]) == {"adversarial"}
    assert missing["why_not"].notna().all()
    assert (out / "replication.md").read_text(encoding="utf-8").startswith("# Published against measured: like-4l\n")


def check_residuals(table: pd.DataFrame, measured: pd.DataFrame) -> None:
    rows = table[table["topic"] == "residual"].set_index(["number", "statistic"])
    assert len(rows) == 36 * 9 * 3
    for row in measured[measured["writer"].isin(["L0H2", "MLP3"])].to_dict("records"):
        for statistic in ("q25", "median", "q75"):
            found = rows.loc[(f"{row['writer']} in {row['state']}", statistic)]
            assert float(found["measured"]) == row[statistic]
            assert float(found["difference"]) == pytest.approx(row[statistic] - float(found["published"]))
            assert found["n"] == N_PROMPTS * SEQ_LEN


def check_group(table: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> None:
    """The group's numbers are the tables' own, of the scan and of the held-out prompts."""
    named = "writer == 'L0H2' and eraser == 'L2H2+L2H3+L2H4+L2H5+L2H6+L2H7'"
    groups, states = tables["eraser_group"], tables["patched_residual_projection"]
    scanned = tables["v_composition"].query(named)
    verified = groups.query(named)
    rows = table[(table["number"] == "PR of the six heads' sum onto L0H2") & (table["where"] == "paper 3.2")]
    rows = rows[(rows["statistic"] == "q25") & (rows["variant"] == "six heads")].set_index("prompts")["measured"]
    assert float(rows["scan"]) == scanned["clean_q25"].item()
    assert float(rows["held out"]) == verified["clean_q25"].item()
    patched = states.query(f"{named} and patch == 'layer' and state == 'resid_mid2'")
    rows = table[table["variant"] == "whole layer patched"].set_index("number")["measured"]
    assert float(rows["PR of resid_mid2 onto L0H2, patched"]) == patched["patched_median"].item()
    lines = tables["dla_correlation"].query(f"{named} and effect == 'downstream'")
    found = table[(table["variant"] == "writer out of all after") & (table["statistic"] == "slope")]["measured"]
    assert float(found.item()) == lines["slope"].item()


@pytest.mark.nightly
def test_the_prompts_are_measured_with_a_tokenizer(place: Path, capsys: pytest.CaptureFixture[str]):
    assert replicate(place, "worded") == 0
    assert "Adversarial prompts: the two likeliest tokens" in capsys.readouterr().out
    table = pd.read_csv(place / "out-worded" / "replication.csv")
    assert table["measured"].notna().all()
    places = pd.read_parquet(place / "out-worded" / "worded" / "tables" / "adversarial.parquet")
    given = places.query("source == 'given' and prompt == 3 and role == 'other' and inputs == 'last'")
    rows = table[table["variant"] == "prompt 4"].set_index("number")["measured"]
    assert rows["likeliest token"] == given["top"].item()
    assert float(rows["logit difference"]) == given["logit_diff"].item()
    assert rows["other head with the highest DLA"] == given["component"].item()


@pytest.mark.nightly
def test_a_second_time_measures_nothing_and_says_the_same(place: Path, capsys: pytest.CaptureFixture[str]):
    table = place / "out-like-4l" / "replication.csv"
    assert replicate(place, "like-4l") == 0
    capsys.readouterr()
    before = table.read_bytes()
    table.unlink()
    assert replicate(place, "like-4l") == 0
    assert table.read_bytes() == before
    assert "2/2 shards" not in capsys.readouterr().out


def test_a_smaller_model_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]):
    assert replicate(place, "small") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"erasure-sweep: {place / 'small'} has 3 layers of 8 heads; the published numbers (L0H2, L2H2, …) are of 4 layers "
        f"with 8 heads and an MLP each: measure it with `erasure-sweep run --model {place / 'small'}`"
    ]
    assert not (place / "out-small").exists()


def test_a_dry_run_measures_nothing(place: Path, capsys: pytest.CaptureFixture[str]):
    assert replicate(place, "like-4l", "--dry-run", "--out", str(place / "dry")) == 0
    assert "like-4l" in capsys.readouterr().out
    assert not (place / "dry").exists()
