"""What version 0.1.0 left is read, or named and left out: an OUT and an MLflow store that it wrote, kept in the repository.

``left-by-0.1.0.tar.xz`` holds a sweep over two bundled models (8 prompts of 32 tokens) as 0.1.0 wrote it, without its pages:
``out`` with manifest, tables and finished shards, ``mlflow.db`` and ``mlartifacts``, and the config ``left.yaml``.
"""

from __future__ import annotations

import sqlite3
import tarfile
from pathlib import Path

import pandas as pd
import pytest

import erasure_sweep as es
from erasure_sweep.sweep.combine_sweeps import compare_folders
from erasure_sweep.sweep.tracking.downloads import download_experiment
from erasure_sweep.workers.tables.sweep_folder import read_out
from tests.support.paths import ROOT

ARCHIVE = ROOT / "tests" / "support" / "data" / "left-by-0.1.0.tar.xz"
MODELS = ["toy-attn-2l", "toy-gelu-2l"]
WRITTEN_TO = "/srv/sweeps"
"""Where 0.1.0 wrote it."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as 0.1.0 left it, with the places of MLflow's artifacts moved here."""
    folder = tmp_path_factory.mktemp("left")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    with sqlite3.connect(folder / "mlflow.db") as store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (WRITTEN_TO, str(folder)))
    return folder


def test_its_tables_are_read(left: Path):
    models = {model.about.name: model for model in read_out(left / "out")}
    assert list(models) == MODELS
    for name, model in models.items():
        kept = {path.stem: path for path in (left / "out" / name / "tables").glob("*.parquet")}
        assert set(model.tables) == set(kept)
        for table, path in kept.items():
            pd.testing.assert_frame_equal(model.tables[table], pd.read_parquet(path))


def test_its_models_are_compared(left: Path, tmp_path: Path):
    page = tmp_path / "compare.html"
    compare_folders([left / "out"], page)
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in MODELS)


def test_its_experiment_comes_back_from_mlflow(left: Path, tmp_path: Path):
    uri = f"sqlite:///{left}/mlflow.db"
    folders = download_experiment(uri, "left-by-0.1.0", tmp_path)
    models = [model for folder in folders for model in read_out(folder)]
    assert sorted(model.about.name for model in models) == MODELS
    for model in models:
        kept = pd.read_parquet(left / "out" / model.about.name / "tables" / "writers.parquet")
        pd.testing.assert_frame_equal(model.tables["writers"], kept)


def test_a_run_does_not_take_its_shards_for_its_own(left: Path):
    """The folder is refused in one line that names the version, and nothing in it changes."""
    before = {path: path.read_bytes() for path in (left / "out").rglob("*") if path.is_file()}
    with pytest.raises(es.UsageError, match=r"holds another sweep \(of version 0\.1\.0\): choose another --out"):
        es.run(str(left / "left.yaml"), out=str(left / "out"), workers=0)
    after = {path: path.read_bytes() for path in (left / "out").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before


def test_measured_anew_its_tables_are_the_same(left: Path, tmp_path: Path):
    """0.2.0 moved code and changed no number."""
    tables = es.run(str(left / "left.yaml"), out=str(tmp_path / "out"), workers=0)
    for name, table in tables.items():
        kept = [
            pd.read_parquet(left / "out" / model / "tables" / f"{name}.parquet")
            for model in MODELS
            if (left / "out" / model / "tables" / f"{name}.parquet").exists()
        ]
        for model, earlier in zip(dict.fromkeys(table["model"]), kept, strict=True):
            mine = table[table["model"] == model].reset_index(drop=True)
            untyped = earlier.columns[earlier.isna().all()]  # what a column without values was in 0.1.0
            earlier = earlier.astype(mine[untyped].dtypes.to_dict())
            if not earlier.select_dtypes("number").empty:
                pd.testing.assert_frame_equal(
                    mine[earlier.columns], earlier, check_dtype=False, rtol=1e-4, atol=1e-6, obj=f"{model}/{name}"
                )
