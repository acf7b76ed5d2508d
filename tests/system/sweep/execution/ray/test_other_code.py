"""Ray workers run the driver's code or none: another copy is refused.

What lies beside a run changes nothing: tests/situations/test_launch.py.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
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
