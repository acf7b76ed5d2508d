"""What MLflow's module does before anyone speaks to a store."""

import subprocess
import sys

from erasure_sweep.sweep.tracking.tracker import Tracker


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
