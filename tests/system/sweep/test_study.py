"""The study as its users run it: every small model and GPT-2 in four sizes by name, online, and staged for where no hub is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.paths import ROOT
from tests.support.servers.hub import Hub, run_environment
from tests.support.servers.study_hub import CHECKPOINTS, GPT2, SMALL_MODELS, add_study

PROTOCOL = ["--prompts", "4", "--seq-len", "24"]
VERIFY = "verify_prompts: 4\ntrust_prompts: 2\ndonors: 4\nplaces: 1\ntop: 1\n"


class Study:
    """The study's hub, and commands that are run against it, each in a process of its own."""

    def __init__(self, hub: Hub, root: Path) -> None:
        self.hub, self.root = hub, root
        self.config = root / "study.yaml"
        preset = (ROOT / "sweep" / "presets" / "scaling.yaml").read_text()
        self.config.write_text(preset + VERIFY)

    def command(self, *arguments: str, offline: bool = False, cache: str = "cache") -> subprocess.CompletedProcess[str]:
        environment = run_environment(self.hub, self.root / cache, offline)
        environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{self.root}/mlflow.db", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "erasure_sweep.sweep.commands", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def staged(self, folder: str) -> tuple[str, str]:
        return "--staging", str(self.root / folder)

    def run(self, out: str, staging: str, *more: str, **where: Any) -> dict[str, dict[str, pd.DataFrame]]:
        """Run the study and return its tables by model."""
        folders = ("--out", str(self.root / out), "--staging", str(self.root / staging))
        done = self.command("run", str(self.config), *PROTOCOL, *folders, *more, **where)
        assert done.returncode == 0, done.stderr
        manifest = json.loads((self.root / out / "manifest.json").read_text())
        assert {entry["state"] for entry in manifest["models"]} == {"FINISHED"}
        return {
            entry["name"]: {
                path.stem: pd.read_parquet(path)
                for path in sorted((self.root / out / entry["folder"] / "tables").glob("*.parquet"))
            }
            for entry in manifest["models"]
        }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    root = tmp_path_factory.mktemp("study")
    with Hub() as hub:
        add_study(hub, root / "made")
        yield Study(hub, root)


def test_checkpoints_revisions_and_own_mixes(study: Study) -> None:
    config = study.root / "own.yaml"
    config.write_text("models: ['gelu-2l@log:2', 'gpt2@step100', gelu-1l]\ncorpus: own\nstage: scan\n")
    folders = ("--out", str(study.root / "own"), "--staging", str(study.root / "staging-online"), "--workers", "0")
    done = study.command("run", str(config), *PROTOCOL, *folders)
    assert done.returncode == 0, done.stderr
    found = json.loads((study.root / "own" / "manifest.json").read_text())["models"]
    said = [(e["name"], e["base"], e["training_tokens"], e["training_steps"], e["corpus_name"]) for e in found]
    assert said == [
        (f"gelu-2l@{CHECKPOINTS[1]}", "gelu-2l", CHECKPOINTS[1], None, "gelu-mix"),
        (f"gelu-2l@{CHECKPOINTS[3]}", "gelu-2l", CHECKPOINTS[3], None, "gelu-mix"),
        ("gpt2@step100", "gpt2", None, 100, "openwebtext-10k"),
        ("gelu-1l", "gelu-1l", None, None, "gelu-mix"),
    ]
    assert len({entry["hash"] for entry in found}) == 4
    page = (study.root / "own" / "compare.html").read_text()
    assert "Each model read its own training mix" in page


def test_what_is_on_the_hub_and_what_is_staged(study: Study) -> None:
    fetched = study.command(
        "fetch", "demo", "--model", "gelu-1l", "--corpus", "pile-10k", *PROTOCOL, *study.staged("listed")
    )
    assert fetched.returncode == 0, fetched.stderr
    listed = study.command("models", "--check", *study.staged("listed"))
    assert listed.returncode == 0, listed.stderr
    rows = {cells[0]: cells for line in listed.stdout.splitlines() if len(cells := line.strip("│ ").split()) > 8}
    assert {name: "yes" in rows[name] for name in ("toy-gelu-4l", "gelu-1l", "gelu-2l", "gpt2")} == {
        "toy-gelu-4l": True,
        "gelu-1l": True,
        "gelu-2l": False,
        "gpt2": False,
    }
    assert all(rows[name][-1] == "MB" for name in (*SMALL_MODELS, *GPT2))
    assert "has no repository NeelNanda/SoLU_1L512W_C4_Code" in listed.stdout


def test_online_and_staged_offline_are_the_same(study: Study) -> None:
    online = study.run("online", "staging-online", "--workers", "0", "--stage", "scan")
    assert list(online) == [*SMALL_MODELS, *GPT2]

    fetched = study.command(
        "fetch", str(study.config), *PROTOCOL, "--staging", str(study.root / "staged"), cache="fetched"
    )
    assert fetched.returncode == 0, fetched.stderr
    assert all(name in fetched.stdout for name in online)
    study.hub.stop()
    offline = study.run("offline", "staged", "--workers", "2", "--stage", "scan", offline=True, cache="empty")

    assert list(offline) == list(online)
    for name, tables in online.items():
        assert list(offline[name]) == list(tables)
        for table, frame in tables.items():
            pd.testing.assert_frame_equal(offline[name][table], frame, check_exact=True, obj=f"{name}: {table}")
    assert not (study.root / "empty").exists() or not any((study.root / "empty").rglob("*.safetensors"))

    # the hub being gone, and not said to be: the staged folder is enough as well, for all stages
    some = [SMALL_MODELS[0], GPT2[0]]
    named = [part for name in some for part in ("--model", name)]
    again = study.run("stopped", "staged", "--workers", "0", *named, cache="empty")
    assert list(again) == some and all("dla_trust" in tables for tables in again.values())
    page = (study.root / "offline" / "compare.html").read_text()
    assert all(name in page for name in online)
