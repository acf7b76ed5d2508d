"""Ray workers run the driver's code or none: a folder full of namesakes changes nothing, another copy is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import erasure_sweep as es
from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.workers.code_identity import FOLDERS, code_identity, hash_code
from erasure_sweep.workers.errors import SweepError
from tests.support.models.random_models import write_tl_directory
from tests.support.paths import ROOT

pytestmark = pytest.mark.xdist_group("ray")


class Trial:
    """One small model and its corpus."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_tl_directory(root / "model")
        np.save(root / "corpus.npy", np.random.default_rng(0).integers(0, 97, (8, 16)))

    def config(self, out: str, workers: int) -> SweepConfig:
        return build_config(
            {
                "name": "trial",
                "models": [str(self.root / "model")],
                "corpus": str(self.root / "corpus.npy"),
                "prompts": 8,
                "seq_len": 16,
                "stage": "scan",
                "workers": workers,
                "out": str(self.root / out),
                "staging": str(self.root / "staging"),
                "tracking_uri": f"sqlite:///{self.root}/mlflow.db",
            }
        )


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def copy_package(parent: Path) -> Path:
    """Another copy of the package, which counts a constant differently."""
    copy = parent / "erasure_sweep"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "__init__.py", copy)
    with (copy / "workers" / "records.py").open("a") as module:
        module.write("\nOTHER = True\n")
    return copy


PACKAGES = ("sweep", "workers", "dashboards", "torch")


def plant_namesakes(folder: Path, *packages: str) -> None:
    """What may lie in the folder in which a run is started: another checkout, and files that fail when they are imported."""
    for name in packages:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('{name} of the current folder')\n")
    for name in ("workers.py", "sweep.py", "yaml.py", "safetensors.py"):
        (folder / name).write_text(f"raise RuntimeError('{name} of the current folder')\n")


def test_namesakes_where_a_run_is_started_are_not_imported(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the current folder nor from the folder of the script: Ray puts both first on its workers' path."""
    expected = es.run(trial.config("alone", workers=0))
    current, scripts = trial.root / "current", trial.root / "scripts"
    plant_namesakes(current, *PACKAGES, "erasure_sweep")
    plant_namesakes(scripts, *PACKAGES)  # beside an `erasure_sweep` a script would import that itself
    monkeypatch.chdir(current)
    monkeypatch.setattr(sys, "argv", [str(scripts / "study.py")])
    # Without the empty entry of a `python -c`, which is the current folder of this process, not of its workers.
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(scripts)])
    found = es.run(trial.config("beside", workers=1))
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def test_workers_that_run_another_copy_are_refused_with_both_places(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_package(trial.root / "other")
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    with pytest.raises(SweepError) as refused:
        es.run(trial.config("refused", workers=1))
    own = code_identity()
    line = str(refused.value)
    assert re.fullmatch(
        rf"no worker can measure: \S+ runs other code \({hash_code(copy)} in {re.escape(str(copy))}\) than the driver "
        rf"\({own.hash} in {re.escape(own.folder)}\) \(every node needs the same erasure-sweep .*\)",
        line,
    ), line
    assert list((trial.root / "refused").rglob("*.state")) == []
    assert json.loads((trial.root / "refused" / "manifest.json").read_text())["code_hash"] == own.hash
