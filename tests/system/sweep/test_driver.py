"""Whole sweeps: the same tables however they are run, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

import erasure_sweep as es
from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.measures.registry import table_names
from tests.support.models.random_models import write_tl_directory
from tests.support.models.transformers_models import write_llama_directory
from tests.support.tracking_stores import place_store
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("helper")

NIGHTLY = pytest.mark.nightly

TABLES = tuple(dict.fromkeys((*table_names("scan", "paths"), *table_names("group", "trust", "adversarial"))))


class Place:
    """Models, a corpus and staging that all tests of this file share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_tl_directory(root / "gelu", seed=1, n_layers=3)
        write_tl_directory(root / "attn", seed=2, n_heads=2, attn_only=True)
        write_llama_directory(root / "llama", seed=4)
        place_store(root / "mlflow.db")
        np.save(root / "corpus.npy", np.random.default_rng(0).integers(0, 97, (48, 32)))

    def config(self, out: str, **changes: object) -> SweepConfig:
        values = {
            "name": "trial",
            "models": [str(self.root / name) for name in MODELS],
            "corpus": str(self.root / "corpus.npy"),
            "prompts": 24,
            "seq_len": 32,
            "block_prompts": 4,
            "verify_prompts": 8,
            "trust_prompts": 4,
            "donors": 10,
            "places": 2,
            "top": 2,
            "out": str(self.root / out),
            "staging": str(self.root / "staging"),
            "tracking_uri": f"sqlite:///{self.root}/mlflow.db",
        }
        return build_config(values | changes)

    def command(self, out: str, model: str, *flags: str) -> list[str]:
        path, models = self.root / f"{out}.yaml", [str(self.root / model)]
        path.write_text(json.dumps(self.config(out, models=models).model_dump(exclude_none=True)))  # JSON is YAML
        return [sys.executable, "-m", "erasure_sweep.sweep.commands", "run", str(path), *flags]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> dict[str, pd.DataFrame]:
    return es.run(place.config("undisturbed", workers=0))


def read(place: Place, out: str, *tables: str) -> dict[str, pd.DataFrame]:
    """Tables that a run left, all that there can be unless some are named."""
    folder = place.root / out
    models = [entry["folder"] for entry in json.loads((folder / "manifest.json").read_text())["models"]]
    paths = {name: [folder / model / "tables" / f"{name}.parquet" for model in models] for name in tables or TABLES}
    return {
        name: pd.concat([pd.read_parquet(path) for path in found if path.exists()], ignore_index=True)
        for name, found in paths.items()
    }


def of_model(tables: dict[str, pd.DataFrame], name: str) -> dict[str, pd.DataFrame]:
    return {key: table[table["model"] == name].reset_index(drop=True) for key, table in tables.items()}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(found[name], expected[name], check_exact=True)


MODELS = ["gelu", "attn", "llama"]
OF_MLPS = ("mlp_erasure", "later_use")
"""Tables that an attention-only model of two layers has no rows in: nothing comes behind its erasers."""

QUANTILES = ["q12_5", "q25", "median", "q75", "q87_5"]
CONTRACT = {
    "residual_projection": [
        "state", *QUANTILES, "mean", "beta", "beta_centred", "n", "effective_*", "effective_beta", "diluted", "constant_share",
    ],
    "component_projection": ["component", *QUANTILES, "mean", "beta", "beta_centred", "n"],
    "v_composition": [
        "eraser", "clean_*", "patched_*", "v_composed_*", "beta", "beta_low", "beta_high", "beta_centred", "beta_first", "p",
        "significant", "significant_by", "n",
    ],
    "dla_correlation": [
        "eraser", "effect", "r", "spearman", "spearman_low", "spearman_high", "slope", "intercept", "low", "high",
        "slope_low", "slope_high", "n", "stage",
    ],
    "writers": [
        "written", "remaining", "reinforced", "opposed", "written_centred", "remaining_centred", "reinforced_centred",
        "opposed_centred", "diluted", "constant_share", "erased", "erased_low", "erased_high", "erased_centred",
        "erased_centred_low", "erased_centred_high", "net_r", "net_slope", "clearly_erased", "erasers", "opposing",
        "significant_erasers", "v_composition_share", "dla_r", "dla_slope", "rank",
    ],
    "erasure_shares": [
        "eraser", "share", "share_low", "share_high", "share_centred", "share_centred_low", "share_centred_high",
        "share_first", "share_first_low", "share_first_high", "prompts", "prompts_centred",
    ],
    "net_dla": ["r", "r_low", "r_high", "slope", "slope_low", "slope_high", "n"],
    "erasers": [
        "eraser", "writers", "writers_taken", "heads", "heads_taken", "beta_sum", "beta_mean", "head_median", "random_mean",
        "random_low", "random_taken", "broad",
    ],
    "eraser_group": [
        "group", "eraser", "chosen", "held_out", "clean_*", "patched_*", "v_composed_*",
        "clean_median_low", "clean_median_high", "patched_median_low", "patched_median_high",
        "beta", "beta_low", "beta_high", "position_share", "verdict", "n",
    ],
    "nulls": ["eraser", "null", "direction", "of", "heads", *QUANTILES, "beta", "beta_low", "beta_high", "n"],
    "patched_residual_projection": [
        "eraser", "patch", "state", "clean_*", "patched_*", "clean_beta", "patched_beta", "n",
    ],
    "dla_points": ["eraser", "effect", "prompt", "position", "writer_dla", "eraser_dla"],
    "mlp_erasure": [
        "component", "clean_*", "patched_*", "read_*", "beta", "beta_low", "beta_high",
        "placebo_lowest", "placebo_median", "placebo_highest", "siblings_median", "verdict", "n",
    ],
    "aligned_tokens": ["rank", "token_id", "token", "mean_direct_logit"],
    "adversarial": [
        "source", "half", "prompt", "position", "text", "top_id", "top", "second_id", "second", "logit_diff", "component",
        "role", "clean", "direct", "total", "total_share", "fools", "inputs", *QUANTILES, "change", "rank", "n",
    ],
    "adversarial_tokens": [
        "source", "half", "prompt", "place", "position", "token_id", "token", "dla", "net_dla", "total",
    ],
    "ablation_loss": [
        "ablation", "clean_loss", "increase_mean", "increase_mean_low", "increase_mean_high", *QUANTILES, "n",
    ],
    "patched_loss": [
        "eraser", "patch", "clean_loss", "increase_mean", "increase_mean_low", "increase_mean_high", *QUANTILES, "n",
    ],
    "carries": [
        "eraser", "part", "power_share", "variance", "position_share", "token_share", "erased_by_group", "n",
    ],
    "position_profile": ["eraser", "first_position", "last_position", "clean_*", "patched_*", "writer_norm", "n"],
    "later_use": [
        "eraser", "component", "clean_*", "patched_*", "clean_beta", "clean_beta_low", "clean_beta_high", "patched_beta",
        "response", "response_low", "response_high", "n",
    ],
    "dla_trust": [
        "trust", "settled",
        *(f"{name}{end}" for name in ("share", "r", "size", "concordance", "constant") for end in ("", "_low", "_high")),
        "dla_mean_abs", "effect_mean_abs", "n", "rotated_share", "rotated_r", "rotated_size", "rotated_trust", "n_rotated",
    ],
    "dla_mediation": ["mediator", "share", "share_low", "share_high"],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
def test_tables_hold_what_the_contract_says(undisturbed: dict[str, pd.DataFrame], name: str) -> None:
    spelled = [column.replace("*", q) for column in CONTRACT[name] for q in (QUANTILES if "*" in column else [""])]
    assert list(undisturbed[name]) == ["model", *(["writer"] if name != "erasers" else []), *spelled]
    assert undisturbed[name]["model"].unique().tolist() == [m for m in MODELS if m != "attn" or name not in OF_MLPS]


def test_tables_are_of_the_prompts_they_should_be(undisturbed: dict[str, pd.DataFrame]) -> None:
    assert set(undisturbed) == set(TABLES) == set(CONTRACT)
    assert (undisturbed["residual_projection"]["n"] == 24 * 31).all()
    assert (undisturbed["eraser_group"]["n"] == 8 * 31).all() and undisturbed["eraser_group"]["held_out"].all()
    assert (undisturbed["dla_trust"]["n"] == 4 * 31).all()
    assert set(undisturbed["dla_points"]["prompt"]) <= set(range(24, 32))
    for name, stages in undisturbed["dla_correlation"].groupby("model")["stage"]:
        assert list(dict.fromkeys(stages)) == ["scan", "verify"], name


@NIGHTLY  # those of the tests with kills below are compared as well
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_give_the_same_tables(place: Place, undisturbed: dict[str, pd.DataFrame], workers: int) -> None:
    assert_same(es.run(place.config(f"ray{workers}", workers=workers)), undisturbed)


def test_a_second_run_measures_nothing_and_changes_nothing(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    store = place.root / "undisturbed" / ".store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.state")}
    assert_same(es.run(place.config("undisturbed", workers=0)), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.state")} == before
    assert_same(es.run(place.config("undisturbed", workers=0), fresh=True), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.state")} != before


@pytest.mark.nightly
def test_fewer_models_first_then_all(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    es.run(place.config("extended", workers=0, models=[str(place.root / "attn")]))
    tables = es.run(place.config("extended", workers=0, models=[str(place.root / name) for name in ("gelu", "attn")]))
    for name in TABLES:
        assert set(tables[name]["model"]) == set(undisturbed[name]["model"]) - {"llama"}
    manifest = json.loads((place.root / "extended" / "manifest.json").read_text())
    states = {entry["name"]: entry["state"] for entry in manifest["models"]}
    assert states == dict.fromkeys(("attn", "gelu"), "FINISHED")


def kill_tree(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver and of everything that it started."""
    parent = psutil.Process(process.pid)
    for victim in [*parent.children(recursive=True), parent]:
        if victim.is_running():
            victim.kill()
    process.wait()


def kill_workers(process: subprocess.Popen[str]) -> int:
    """kill -9 of a driver's workers on Ray; how many there were."""
    children = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in children if "ShardWorkerActor" in " ".join(child.cmdline())]
    for victim in victims:
        victim.kill()
    return len(victims)


def wait_for_shards(place: Place, out: str, at_least: int, process: subprocess.Popen[str]) -> int:
    """How many shards are in the store, once there are so many."""
    store = place.root / out / ".store"
    wait_until(lambda: len(list(store.rglob("*.state"))) >= at_least, process)
    return len(list(store.rglob("*.state")))


@pytest.mark.parametrize("measured", [pytest.param(2, marks=NIGHTLY), 14])
def test_kill_9_of_workers_then_of_everything_then_resume(
    place: Place, undisturbed: dict[str, pd.DataFrame], measured: int
) -> None:
    """Killed workers are replaced: without them nothing more would be measured. Twelve shards are of scan and paths."""
    out = f"killed{measured}"
    command = place.command(out, "llama", "--workers", "2")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_shards(place, out, 1, process)
    assert kill_workers(process) > 0  # one may still have been starting
    wait_for_shards(place, out, measured, process)
    kill_tree(process)
    manifest = json.loads((place.root / out / "manifest.json").read_text())
    assert "MEASURING" in {entry["state"] for entry in manifest["models"]}
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "already measured" in finished.stdout
    assert_same(read(place, out), of_model(undisturbed, "llama"))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=NIGHTLY)])
def test_interrupted_then_resumed(place: Place, undisturbed: dict[str, pd.DataFrame], kind: signal.Signals) -> None:
    out = f"interrupted-{kind.name}"
    process = subprocess.Popen(
        place.command(out, "gelu", "--workers", "1"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_shards(place, out, 2, process)
    os.killpg(process.pid, kind) if kind is signal.SIGINT else process.send_signal(kind)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].startswith("erasure-sweep: interrupted")
    manifest = json.loads((place.root / out / "manifest.json").read_text())
    assert "KILLED" in {entry["state"] for entry in manifest["models"]}
    resumed = es.run(place.config(out, workers=0, models=[str(place.root / "gelu")]))
    assert_same(resumed, of_model(undisturbed, "gelu"))


@pytest.mark.nightly
def test_a_poisoned_shard_is_set_aside_and_the_rest_finishes(
    place: Place, undisturbed: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    from erasure_sweep.workers.worker import ShardWorker

    measure, calls = ShardWorker.measure, []

    def poisoned(self, task, *contents):
        if "attn" in task.weights or (task.first_prompt == 8 and task.model_hash == poison):
            calls.append(task.id)
            raise RuntimeError("poison")
        return measure(self, task, *contents)

    measured = json.loads((place.root / "undisturbed" / "manifest.json").read_text())
    poison = next(entry["hash"] for entry in measured["models"] if entry["name"] == "attn")
    monkeypatch.setattr(ShardWorker, "measure", poisoned)
    with pytest.raises(SweepError, match=r"attn: 1 of 6 shards of scan failed 3 times.*poison"):
        es.run(place.config("poisoned", workers=0))
    assert len(calls) == 3 and len(set(calls)) == 1
    manifest = json.loads((place.root / "poisoned" / "manifest.json").read_text())
    assert {entry["name"]: entry["state"] for entry in manifest["models"]} == {
        "gelu": "FINISHED", "attn": "FAILED", "llama": "FINISHED",
    }  # fmt: skip
    assert not (place.root / "poisoned" / "attn" / "tables").exists()
    monkeypatch.undo()
    es.run(place.config("poisoned", workers=0))


@pytest.mark.nightly
def test_a_named_group_is_measured_in_the_same_pass(place: Place, undisturbed: dict[str, pd.DataFrame]) -> None:
    gelu = [str(place.root / "gelu")]
    tables = es.run(place.config("group", workers=0, models=gelu, writers=["L0H1"], erasers="L1H2+L2H0"))
    for name, key in (("v_composition", ["writer", "eraser"]), ("dla_correlation", ["writer", "eraser", "effect"])):
        table = tables[name].set_index(key)
        assert set(tables[name].loc[tables[name]["eraser"] == "L1H2+L2H0", "writer"]) == {"L0H1"}
        plain = undisturbed[name].query("model == 'gelu'").set_index(key)
        if name == "dla_correlation":
            table, plain = table[table["stage"] == "scan"], plain[plain["stage"] == "scan"]
        assert len(table) == len(plain) + (1 if name == "v_composition" else 2)
    pairs = tables["v_composition"].set_index(["writer", "eraser"])["beta"]
    assert pairs["L0H1", "L1H2+L2H0"] == pytest.approx(pairs["L0H1", "L1H2"] + pairs["L0H1", "L2H0"], abs=1e-9)
    for writer, erasers, what in (("L0H9", "L1H2", "no such writer"), ("L1H0", "L1H2", "cannot read L1H0")):
        with pytest.raises(SweepError, match=what):
            es.run(place.config("nogroup", workers=0, models=gelu, writers=[writer], erasers=erasers))


def test_two_models_that_cannot_be_told_apart_are_refused(place: Place) -> None:
    write_tl_directory(place.root / "twin" / "gelu", seed=9)
    write_tl_directory(place.root / "copy", seed=1, n_layers=3)
    first = str(place.root / "gelu")
    for twin, what in (
        (f"gelu={place.root / 'twin' / 'gelu'}", "the same name"),
        (str(place.root / "copy"), "the same weights"),
    ):
        with pytest.raises(SweepError, match=what):
            es.run(place.config("twins", workers=0, models=[first, twin]))
    assert not list((place.root / "twins").rglob("*.parquet"))


@pytest.mark.nightly
def test_other_weights_of_the_same_name_do_not_replace_results(place: Place) -> None:
    write_tl_directory(place.root / "other" / "gelu", seed=10)
    first, second = ([str(place.root / name)] for name in ("gelu", "other/gelu"))
    kept = es.run(place.config("same", workers=0, models=first))
    with pytest.raises(SweepError, match=r"holds results of other weights called gelu: .*--fresh"):
        es.run(place.config("same", workers=0, models=second))
    assert_same(read(place, "same"), kept)
    replaced = es.run(place.config("same", workers=0, models=second), fresh=True)
    assert not replaced["writers"].equals(kept["writers"])
