"""What version 0.1.0 left is named and left out, for its numbers mean something else: an OUT and an MLflow store, kept here.

``left-by-0.1.0.tar.xz`` holds a sweep over two bundled models (8 prompts of 32 tokens) as 0.1.0 wrote it, without its pages:
``out`` with manifest, tables and finished shards, ``mlflow.db`` and ``mlartifacts``, and the config ``left.yaml``.
"""

from __future__ import annotations

import re
import sqlite3
import tarfile
from pathlib import Path

import pytest

import erasure_sweep as es
from erasure_sweep.sweep.finishing.combine_sweeps import compare_folders
from erasure_sweep.sweep.tracking.downloads import download_experiment
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.files import SchemaError
from erasure_sweep.workers.tables.sweep_folder import read_out
from tests.support.fakes.tables import fake_model, write_out
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


def test_its_tables_are_not_misread(left: Path):
    with pytest.raises(SchemaError, match=rf"schema_version '2', this version reads '{SCHEMA_VERSION}'"):
        read_out(left / "out")


def test_its_models_are_named_and_left_out(left: Path, tmp_path: Path):
    """Beside others they are not on the page; alone they make none."""
    line = (
        f"{', '.join(MODELS)} (sweep left-by-0.1.0) were logged with schema 2 (erasure-sweep 0.1.0), this version reads"
    )
    with pytest.raises(SweepError, match=re.escape(f"{line} {SCHEMA_VERSION}: left out; no model remains")):
        compare_folders([left / "out"], tmp_path / "none.html")
    now = tmp_path / "now"
    write_out([fake_model()], now)
    assert compare_folders([now, left / "out"], tmp_path / "page.html") == [f"{line} {SCHEMA_VERSION}: left out"]


def test_its_logged_runs_are_named_and_left_out(left: Path, tmp_path: Path):
    folders = download_experiment(f"sqlite:///{left}/mlflow.db", "left-by-0.1.0", tmp_path)
    with pytest.raises(SweepError, match=f"{', '.join(MODELS)} .* were logged with schema 2"):
        compare_folders(folders, tmp_path / "page.html")


def test_a_run_does_not_take_its_shards_for_its_own(left: Path):
    """The folder is refused in one line that names the version, and nothing in it changes."""
    before = {path: path.read_bytes() for path in (left / "out").rglob("*") if path.is_file()}
    with pytest.raises(es.UsageError, match=r"holds another sweep \(of version 0\.1\.0\): choose another --out"):
        es.run(str(left / "left.yaml"), out=str(left / "out"), workers=0)
    after = {path: path.read_bytes() for path in (left / "out").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before
