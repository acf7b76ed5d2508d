"""What MLflow's module does before anyone speaks to a store."""

import subprocess
import sys
from pathlib import Path

import pytest

from erasure_sweep.sweep.tracking.tracker import Tracker, default_uri, sqlite_path
from erasure_sweep.workers.storage.shard_storage import without_password


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


def test_passwords_are_not_shown():
    assert without_password("postgresql://me:se:cret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert without_password("http://127.0.0.1:5000/a@b") == "http://127.0.0.1:5000/a@b"
    for password in ("pa/ss", "p@ss", "p:a/s@s", "12345x/6"):
        assert without_password(f"postgresql://me:{password}@host/db") == "postgresql://me:***@host/db"
    asked = without_password("cannot connect to postgresql://host/db?user=me&Password=se/cret&x=1 now")
    assert asked == "cannot connect to postgresql://host/db?user=me&Password=***&x=1 now"


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
