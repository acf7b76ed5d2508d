"""Whole sweeps: the same tables however they are run, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

import sweep
from sweep.config import SweepConfig, build_config
from tests.random_models import write_hf_gpt2_directory, write_tl_directory
from workers.errors import SweepError

pytestmark = pytest.mark.xdist_group("ray")

TABLES = ("writers", "residual_projection", "component_projection", "v_composition", "dla_correlation")


class Place:
    """Models, a corpus and staging that all tests of this file share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_tl_directory(root / "gelu", seed=1, n_layers=3)
        write_tl_directory(root / "attn", seed=2, n_heads=2, attn_only=True)
        write_hf_gpt2_directory(root / "gpt2", seed=3)
        np.save(root / "corpus.npy", np.random.default_rng(0).integers(0, 97, (40, 32)))

    def config(self, out: str, **changes: object) -> SweepConfig:
        values = {
            "name": "trial",
            "models": [str(self.root / name) for name in ("gelu", "attn", "gpt2")],
            "corpus": str(self.root / "corpus.npy"),
            "prompts": 40,
            "seq_len": 32,
            "block_prompts": 4,
            "out": str(self.root / out),
            "staging": str(self.root / "staging"),
            "tracking_uri": f"sqlite:///{self.root}/mlflow.db",
        }
        return build_config(values | changes)

    def command(self, out: str, *flags: str) -> list[str]:
        path = self.root / f"{out}.yaml"
        path.write_text(json.dumps(self.config(out).model_dump(exclude_none=True)))  # JSON is YAML
        return [sys.executable, "-m", "sweep.cli", "run", str(path), *flags]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> dict[str, pd.DataFrame]:
    return sweep.run(place.config("undisturbed", workers=0))


def read(place: Place, out: str) -> dict[str, pd.DataFrame]:
    folder = place.root / out
    models = [entry["folder"] for entry in json.loads((folder / "manifest.json").read_text())["models"]]
    return {
        name: pd.concat([pd.read_parquet(folder / m / "tables" / f"{name}.parquet") for m in models], ignore_index=True)
        for name in TABLES
    }


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(found[name], expected[name], check_exact=True)


def test_tables_hold_what_the_contract_says(undisturbed: dict[str, pd.DataFrame]) -> None:
    assert set(undisturbed) == set(TABLES)
    quantiles = ["q12_5", "q25", "median", "q75", "q87_5", "mean", "beta", "beta_centred", "n"]
    assert list(undisturbed["residual_projection"]) == ["model", "writer", "state", *quantiles]
    assert list(undisturbed["component_projection"]) == ["model", "writer", "component", *quantiles]
    assert list(undisturbed["writers"]) == [
        "model", "writer", "written", "remaining", "reinforced", "opposed", "erased_by_reading", "written_centred",
        "remaining_centred", "reinforced_centred", "opposed_centred", "erased_by_reading_centred", "erasers", "opposing",
        "v_composition_share", "dla_r", "dla_slope", "rank",
    ]  # fmt: skip
    kinds = [
        f"{kind}_{q}" for kind in ("clean", "patched", "v_composed") for q in ("q12_5", "q25", "median", "q75", "q87_5")
    ]
    assert list(undisturbed["v_composition"]) == ["model", "writer", "eraser", *kinds, "beta", "beta_centred", "n"]
    assert list(undisturbed["dla_correlation"]) == [
        "model", "writer", "eraser", "effect", "r", "spearman", "slope", "intercept", "low", "high", "n",
    ]  # fmt: skip
    assert undisturbed["writers"]["model"].unique().tolist() == ["gelu", "attn", "gpt2"]
    assert (undisturbed["residual_projection"]["n"] == 40 * 32).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_give_the_same_tables(place: Place, undisturbed: dict[str, pd.DataFrame], workers: int) -> None:
    assert_same(sweep.run(place.config(f"ray{workers}", workers=workers)), undisturbed)


def test_a_second_run_measures_nothing_and_changes_nothing(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    store = place.root / "undisturbed" / ".store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.state")}
    assert_same(sweep.run(place.config("undisturbed", workers=0)), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.state")} == before
    assert_same(sweep.run(place.config("undisturbed", workers=0), fresh=True), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.state")} != before


def test_fewer_models_first_then_all(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    sweep.run(place.config("extended", workers=0, models=[str(place.root / "attn")]))
    tables = sweep.run(place.config("extended", workers=0))
    for name in TABLES:
        assert set(tables[name]["model"]) == {"gelu", "attn", "gpt2"}
    manifest = json.loads((place.root / "extended" / "manifest.json").read_text())
    states = {entry["name"]: entry["state"] for entry in manifest["models"]}
    assert states == dict.fromkeys(("attn", "gelu", "gpt2"), "FINISHED")


def kill_tree(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver and of everything that it started."""
    parent = psutil.Process(process.pid)
    for victim in [*parent.children(recursive=True), parent]:
        if victim.is_running():
            victim.kill()
    process.wait()


def wait_for_shards(place: Place, out: str, at_least: int, process: subprocess.Popen[str]) -> int:
    store = place.root / out / ".store"
    for _ in range(1200):
        done = len(list(store.rglob("*.state")))
        if done >= at_least or process.poll() is not None:
            return done
        time.sleep(0.05)
    raise AssertionError("no shard was measured")


def test_kill_9_of_everything_then_resume(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    command = place.command("killed", "--workers", "2")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = wait_for_shards(place, "killed", 3, process)
    kill_tree(process)
    assert 3 <= done < 30
    manifest = json.loads((place.root / "killed" / "manifest.json").read_text())
    assert "MEASURING" in {entry["state"] for entry in manifest["models"]}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "already measured" in finished.stdout
    assert_same(read(place, "killed"), undisturbed)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_then_resumed(place: Place, undisturbed: dict[str, pd.DataFrame], kind: signal.Signals) -> None:
    out = f"interrupted-{kind.name}"
    process = subprocess.Popen(
        place.command(out, "--workers", "1"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_shards(place, out, 2, process)
    started = time.monotonic()
    os.killpg(process.pid, kind) if kind is signal.SIGINT else process.send_signal(kind)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].startswith("erasure-sweep: interrupted")
    assert time.monotonic() - started < 30
    manifest = json.loads((place.root / out / "manifest.json").read_text())
    assert "KILLED" in {entry["state"] for entry in manifest["models"]}
    assert_same(sweep.run(place.config(out, workers=0)), undisturbed)


def test_a_killed_worker_is_replaced(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    process = subprocess.Popen(place.command("wounded", "--workers", "2"), stderr=subprocess.PIPE, text=True)
    wait_for_shards(place, "wounded", 1, process)
    killed = 0
    for child in psutil.Process(process.pid).children(recursive=True):
        if "RemoteShardWorker" in " ".join(child.cmdline()):
            child.kill()
            killed += 1
    assert killed > 0  # one may still have been starting
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert_same(read(place, "wounded"), undisturbed)


def test_a_poisoned_shard_is_set_aside_and_the_rest_finishes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.actor import ShardWorker

    measure, calls = ShardWorker.measure, []

    def poisoned(self, task, weights=None, tokens=None):
        if "attn" in task.weights or (task.first_prompt == 8 and task.model_hash == poison):
            calls.append(task.id)
            raise RuntimeError("poison")
        return measure(self, task, weights, tokens)

    undisturbed = json.loads((place.root / "undisturbed" / "manifest.json").read_text())
    poison = next(entry["hash"] for entry in undisturbed["models"] if entry["name"] == "attn")
    monkeypatch.setattr(ShardWorker, "measure", poisoned)
    with pytest.raises(SweepError, match=r"attn: 1 of 10 shards failed 3 times.*poison"):
        sweep.run(place.config("poisoned", workers=0))
    assert len(calls) == 3 and len(set(calls)) == 1
    manifest = json.loads((place.root / "poisoned" / "manifest.json").read_text())
    assert {entry["name"]: entry["state"] for entry in manifest["models"]} == {
        "gelu": "FINISHED", "attn": "FAILED", "gpt2": "FINISHED",
    }  # fmt: skip
    assert not (place.root / "poisoned" / "attn" / "tables").exists()
    monkeypatch.undo()
    sweep.run(place.config("poisoned", workers=0))


def test_a_named_group_is_measured_in_the_same_pass(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    gelu = [str(place.root / "gelu")]
    tables = sweep.run(place.config("group", workers=0, models=gelu, writers=["L0H1"], erasers="L1H2+L2H0"))
    for name, key in (("v_composition", ["writer", "eraser"]), ("dla_correlation", ["writer", "eraser", "effect"])):
        table = tables[name].set_index(key)
        assert set(tables[name].loc[tables[name]["eraser"] == "L1H2+L2H0", "writer"]) == {"L0H1"}
        plain = undisturbed[name].query("model == 'gelu'").set_index(key)
        assert len(table) == len(plain) + (1 if name == "v_composition" else 2)
    pairs = tables["v_composition"].set_index(["writer", "eraser"])["beta"]
    assert pairs["L0H1", "L1H2+L2H0"] == pytest.approx(pairs["L0H1", "L1H2"] + pairs["L0H1", "L2H0"], abs=1e-9)
    for writer, erasers, what in (("L0H9", "L1H2", "no such writer"), ("L1H0", "L1H2", "cannot read L1H0")):
        with pytest.raises(SweepError, match=what):
            sweep.run(place.config("nogroup", workers=0, models=gelu, writers=[writer], erasers=erasers))


def test_two_models_that_cannot_be_told_apart_are_refused(place: Place) -> None:
    write_tl_directory(place.root / "twin" / "gelu", seed=9)
    write_tl_directory(place.root / "copy", seed=1, n_layers=3)
    for twin, what in (("twin/gelu", "the same name"), ("copy", "the same weights")):
        models = [str(place.root / "gelu"), str(place.root / twin)]
        with pytest.raises(SweepError, match=what):
            sweep.run(place.config("twins", workers=0, models=models))
    assert not list((place.root / "twins").rglob("*.parquet"))


def test_other_weights_of_the_same_name_do_not_replace_results(place: Place) -> None:
    write_tl_directory(place.root / "other" / "gelu", seed=10)
    first, second = ([str(place.root / name)] for name in ("gelu", "other/gelu"))
    kept = sweep.run(place.config("same", workers=0, models=first))
    with pytest.raises(SweepError, match=r"holds results of other weights called gelu: .*--fresh"):
        sweep.run(place.config("same", workers=0, models=second))
    assert_same(read(place, "same"), kept)
    replaced = sweep.run(place.config("same", workers=0, models=second), fresh=True)
    assert not replaced["writers"].equals(kept["writers"])
