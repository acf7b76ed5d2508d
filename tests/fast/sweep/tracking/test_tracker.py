"""What MLflow's module does before anyone speaks to a store."""

import subprocess
import sys
from pathlib import Path

import pytest

from erasure_sweep.sweep.tracking.tracker import Tracker, default_uri, sqlite_path


def test_default_uri_honours_mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////data/mlflow.db?timeout=3", Path("/data/mlflow.db")),
        ("postgresql://u:p@host/db", None),
        ("http://127.0.0.1:5000", None),
    ],
)
def test_sqlite_path(uri, path):
    assert sqlite_path(uri) == path


def test_construction_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Tracker("sqlite:///mlflow.db", "demo")
    assert list(tmp_path.iterdir()) == []


def test_import_leaves_mlflow_alone():
    heavy = (
        "import sys, erasure_sweep.sweep.tracking.tracker, erasure_sweep.sweep.tracking.ui_server\n"
        "sys.exit(any(m in sys.modules for m in ('mlflow', 'torch', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
