"""Two stages: what is planned from what, what is measured when, and that every way through ends in the same tables."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.sweep import model_steps
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.workers.measures.registry import table_names
from erasure_sweep.workers.records import ShardResult, ShardTask
from tests.support.bad_input import D_VOCAB, Bench, Ran, assert_finished, assert_refused
from tests.support.models.random_models import random_config, tl_state_dict, write_tl_directory

SCAN_ONLY = set(table_names("scan", "paths")) - set(table_names("group", "trust", "adversarial"))
VERIFY_ONLY = set(table_names("group", "trust", "adversarial")) - set(table_names("scan", "paths"))


class Verifying(Bench):
    """Runs of which the corpus holds more prompts than are scanned."""

    def __init__(self, root: Path, background: HelperProcess) -> None:
        super().__init__(root, background=background)
        self.tokens = root / "longer.npy"
        np.save(self.tokens, np.random.default_rng(3).integers(0, D_VOCAB, (28, 16)))
        self.config = root / "small.yaml"
        self.config.write_text("models: [none]\nblock_prompts: 4\ntop: 2\ntrust_prompts: 4\nplaces: 2\n")

    def run(self, out: Path, *more: str, **changes: object) -> Ran:
        return super().run(out, str(self.config), *more, **changes)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, background: HelperProcess) -> Verifying:
    return Verifying(tmp_path_factory.mktemp("stages"), background)


def names(ran: Ran) -> set[str]:
    return {Path(path).stem for path in ran.tables()}


def entry(ran: Ran) -> dict[str, object]:
    (found,) = json.loads((ran.out / "manifest.json").read_text())["models"]
    return dict(found)


def test_each_stage_is_planned_from_the_one_before(measured: Ran) -> None:
    lines = [line for line in measured.stdout.splitlines() if "already measured" in line]
    assert lines == [
        "good: 4 shards of scan, 0 already measured",
        "good: 4 shards of paths, 0 already measured",
        "good: 2 shards of trust, 0 already measured",
        "good: 4 shards of covariance, 0 already measured",
        "good: 4 shards of placebo, 0 already measured",
        "good: 3 shards of group, 0 already measured",
        "good: 1 shard of adversarial, 0 already measured",
    ]
    assert names(measured) == SCAN_ONLY | VERIFY_ONLY | {"dla_correlation"}
    noted = entry(measured)
    assert (noted["stages"], noted["held_out"], noted["n_verify_prompts"]) == (["scan", "verify"], True, 12)
    assert [target["chosen"] in ("rule", "all") for target in noted["targets"]] == [True, True]  # type: ignore[attr-defined]
    assert "Verified on other prompts" in measured.stdout
    assert "good: DLA beside what replacing it by its mean does, of " in measured.stdout


def of_child(bench: Bench, experiment: str, table: str) -> dict[str, object]:
    """Tags or latest metrics of the model's run in MLflow, by key."""
    query = f"""
        select t.key, t.value from {table} t join runs r using (run_uuid) join experiments e using (experiment_id)
        where e.name = ? and r.name = 'good'
    """
    with contextlib.closing(sqlite3.connect(bench.root / "mlflow.db")) as store:
        return dict(store.execute(query, [experiment]))


def test_what_is_verified_is_logged(bench: Verifying, measured: Ran) -> None:
    tags, metrics = (of_child(bench, measured.out.parent.name, table) for table in ("tags", "latest_metrics"))
    assert (tags["stage"], tags["state"]) == ("scan+verify", "finished")
    assert "trust/settled_share" in metrics
    verdict_counts = [
        value for key, value in metrics.items() if key.startswith("verify/") and key != "verify/erasing_worth_most"
    ]
    assert sum(verdict_counts) > 0  # type: ignore[arg-type]


@pytest.mark.nightly
def test_a_scan_alone_and_then_the_rest(bench: Verifying, out: Path, measured: Ran) -> None:
    first = bench.run(out, stage="scan")
    assert first.code == 0 and names(first) == SCAN_ONLY | {"dla_correlation"}
    assert entry(first)["stages"] == ["scan"] and entry(first)["held_out"] is None
    assert (out / "good" / "index.html").exists() and "Verified" not in first.stdout
    shards = {path: path.stat().st_mtime_ns for path in first.shards()}
    second = bench.run(out, stage="verify")
    assert_finished(second, "good")
    assert {path: path.stat().st_mtime_ns for path in second.shards() if path in shards} == shards
    assert "good: 4 shards of scan, 4 already measured" in second.stdout
    assert second.tables() == measured.tables()
    third = bench.run(out, stage="scan")
    assert third.tables() == measured.tables() and entry(third)["stages"] == ["scan", "verify"]


@pytest.mark.parametrize("left", [0, 3])
def test_verify_without_the_whole_scan_is_refused(bench: Verifying, out: Path, left: int) -> None:
    if left:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_steps, "plan_paths", lambda *_: 1 / 0)
            bench.run(out, stage="scan")
        for path in list(out.rglob("*.state"))[left:]:
            path.unlink()
    ran = bench.run(out, stage="verify")
    said = (
        "--stage verify needs the scan of good",
        f"{4 - left} of its 4 shards",
        "`erasure-sweep run … --stage scan`",
    )
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1)
    assert all(part in ran.line for part in (*said, "or leave out --stage"))
    assert len(ran.shards()) == left


def test_named_writers_and_erasers_need_the_scan_as_well(bench: Verifying, out: Path) -> None:
    """What stays of a writer that is replaced is its mean over the scan."""
    named = ("--writer", "L0H1", "--erasers", "L1H1+L1H0")
    alone = bench.run(out, *named, stage="verify")
    assert alone.code == 2 and "--stage verify needs the scan of good" in alone.line
    whole = bench.run(out, *named, "--erasers", "L1H0+L1H1")
    assert_finished(whole, "good")
    named_target = {"writer": "L0H1", "erasers": ["L1H0", "L1H1"], "chosen": "named"}
    assert named_target in entry(whole)["targets"]  # type: ignore[operator]


@pytest.mark.nightly
def test_the_means_of_the_scan_are_staged_and_damaged_ones_are_made_anew(bench: Verifying, out: Path) -> None:
    staging = out.parent / "staging"
    first = bench.run(out, staging=staging)
    contents = {path: path.read_bytes() for path in (staging / "means").iterdir()}
    assert len(contents) == 2  # of terms, and of the products of which the covariance is made
    for path, content in contents.items():
        path.write_bytes(content[:-1] + b"x")
    for path in sorted(out.rglob("*.state"))[::2]:
        path.unlink()
    again = bench.run(out, staging=staging)
    assert_finished(again, "good")
    assert again.tables() == first.tables()
    assert {path: path.read_bytes() for path in (staging / "means").iterdir()} == contents


def test_where_nothing_is_erased_nothing_is_verified_and_that_is_said(
    bench: Verifying, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else is measured, and the pages are whole: of random weights whose values nobody reads against."""
    state = tl_state_dict(random_config(2, 2, 16))
    state["blocks.1.attn.W_O"] = state["blocks.1.attn.W_O"] * 0.01
    state["blocks.0.attn.W_O"] = state["blocks.0.attn.W_O"] * 0.01
    quiet = write_tl_directory(bench.root / "quiet", 0, 2, 2, 16, state=state)
    monkeypatch.setattr(bench, "pages", True)
    ran = bench.run(out, model=quiet)
    assert (ran.code, ran.states, set(ran.runs.values())) == (0, {"quiet": "FINISHED"}, {"FINISHED"})
    assert "quiet: verifying nothing, for nothing clears its null" in ran.stdout
    assert "quiet: erased: nothing clear of chance: the most is 0.0" in ran.stdout
    assert "Writers whose output" not in ran.stdout and "Verified on" not in ran.stdout
    noted = entry(ran)
    assert (noted["targets"], noted["stages"]) == ([], ["scan", "verify"])
    assert str(noted["targets_reason"]).startswith("nothing, for")
    assert names(ran) == SCAN_ONLY | {"dla_correlation", "dla_trust", "dla_mediation"}
    assert not [key for key in of_child(bench, ran.out.parent.name, "tags") if key.startswith("most_erased")]
    page = (out / "quiet" / "index.html").read_text()
    assert "nothing clear of chance: the most is 0.0" in page and "This run verified nothing, for" in page


def test_named_writers_are_verified_with_what_the_rule_finds(bench: Verifying, out: Path) -> None:
    ran = bench.run(out, "--writer", "MLP0", "--writer", "embed")
    assert_finished(ran, "good")
    targets = entry(ran)["targets"]
    assert [target["writer"] for target in targets] == ["MLP0", "embed"]  # type: ignore[attr-defined]
    assert all(target["chosen"] != "named" for target in targets)  # type: ignore[attr-defined]
    more = bench.run(out, top=1)
    assert_finished(more, "good")
    assert len({target["writer"] for target in entry(more)["targets"]}) == 1  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_a_corpus_without_further_prompts_is_said_not_to_be_held_out(bench: Verifying, out: Path) -> None:
    ran = bench.run(out, prompts=28)
    assert_finished(ran, "good")
    assert (
        "good: the corpus holds no more than 28 prompts of 16 tokens, so verify measures on prompts that" in ran.stdout
    )
    assert "Verified on scanned prompts" in ran.stdout
    assert (entry(ran)["held_out"], entry(ran)["n_verify_prompts"]) == (False, 28)


def test_one_prompt_cannot_be_verified(bench: Verifying, out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 16), int))
    assert_refused(
        bench.run(out, prompts=1, corpus=tmp_path / "one.npy"), 2, "verify needs 2 distinct prompts", "--stage scan"
    )
    assert bench.run(out, prompts=1, corpus=tmp_path / "one.npy", stage="scan").code == 0


def test_given_prompts_need_a_tokenizer(bench: Verifying, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "given.yaml"
    config.write_text("models: [none]\nadversarial_prompts: [the cat]\n")
    ran = super(Verifying, bench).run(out, str(config))
    assert_refused(ran, 2, "adversarial_prompts: 'the cat' is text, and the model has no tokenizer")


def test_given_prompts_are_tested(bench: Verifying, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "given.yaml"
    config.write_text('models: [none]\ntop: 1\nplaces: 0\nadversarial_prompts: [the cat, "def f(x):\\n\\treturn"]\n')
    changes = {"model": "toy-gelu-2l", "corpus": "stdlib", "prompts": 4}
    ran = super(Verifying, bench).run(out, str(config), "--writer", "L0H1", **changes)
    assert_finished(ran, "toy-gelu-2l")
    table = pd.read_parquet(out / "toy-gelu-2l" / "tables" / "adversarial.parquet")
    assert set(table["source"]) == {"given"} and table["text"].unique().tolist() == ["the cat", "def f(x):\n\treturn"]


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(stage, marks=pytest.mark.nightly) for stage in ("covariance", "placebo", "trust")),
        "group",
        "adversarial",
    ],
)
def test_interrupted_while_verifying_and_gone_on(
    bench: Verifying, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from erasure_sweep.workers.worker import ShardWorker

    measure, before = ShardWorker.measure, []

    def interrupted(worker: ShardWorker, task: ShardTask) -> ShardResult:
        if task.stage == stage:
            signal.raise_signal(signal.SIGINT)
        before.append(task.id)
        return measure(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "measure", interrupted)
        ran = bench.run(out)
    assert ran.code == 130
    assert ran.states == {"good": "KILLED"} and set(ran.runs.values()) == {"KILLED"}
    shards = {"trust": 8, "covariance": 10, "placebo": 14, "group": 18, "adversarial": 21}[stage]
    assert len(before) == shards == len(ran.shards())
    # while trust is measured, the scan is merged: it may not have come to its tables
    assert names(ran) == SCAN_ONLY | {"dla_correlation"} or stage == "trust"
    again = bench.run(out)
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


@pytest.mark.parametrize(
    "stage", ["trust", *(pytest.param(s, marks=pytest.mark.nightly) for s in ("group", "adversarial"))]
)
def test_a_shard_of_verify_that_fails_leaves_the_scan(
    bench: Verifying, out: Path, tmp_path: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from erasure_sweep.workers.worker import ShardWorker

    other = write_tl_directory(tmp_path / "other", 5, 2, 2, 16)
    measure, tried = ShardWorker.measure, []

    def failing(worker: ShardWorker, task: ShardTask) -> ShardResult:
        if task.stage == stage and task.model_hash == poisoned:
            tried.append(task.id)
            raise RuntimeError("poison")
        return measure(worker, task)

    poisoned = entry(measured)["hash"]
    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "measure", failing)
        ran = bench.run(out, "--model", str(other))
    assert ran.code == 1 and ran.states == {"good": "FAILED", "other": "FINISHED"}
    total = {
        "trust": "2 of 2 shards of trust",
        "group": "3 of 3 shards of group",
        "adversarial": "1 of 1 shard of adversarial",
    }
    assert f"good: {total[stage]}" in ran.line and "poison" in ran.line
    assert len(tried) == 3 * len(set(tried))
    assert {Path(path).stem for path in ran.tables() if path.startswith("good/")} == SCAN_ONLY | {"dla_correlation"}
    assert "\n│ other " in ran.stdout and "\n│ good " not in ran.stdout
    again = bench.run(out, "--model", str(other))
    assert again.code == 0 and again.states == {"good": "FINISHED", "other": "FINISHED"}
    of_good = {path: content for path, content in again.tables().items() if path.startswith("good/")}
    assert of_good == measured.tables()


@pytest.mark.nightly
def test_fresh_measures_both_stages_anew(bench: Verifying, out: Path, measured: Ran) -> None:
    first = bench.run(out)
    shards = {path: path.stat().st_mtime_ns for path in first.shards()}
    ran = bench.run(out, "--fresh", stage="verify")
    anew = {path for path in ran.shards() if path.stat().st_mtime_ns != shards[path]}
    assert len(anew) == 14  # the scan is what verify stands on
    ran = bench.run(out, "--fresh")
    assert {path for path in ran.shards() if path.stat().st_mtime_ns == shards[path]} == set()
    assert ran.tables() == measured.tables()


def test_a_model_with_nothing_to_verify_is_finished(bench: Verifying, out: Path, tmp_path: Path) -> None:
    """A model whose components write nothing has no ranked writer: its trust alone is measured."""
    from tests.support.models.random_models import random_config, tl_state_dict

    state = {
        name: values * 0 if ".attn." in name else values
        for name, values in tl_state_dict(random_config(1, 2, 16)).items()
    }
    state = {name: values * 0 if name.startswith(("embed", "pos_embed")) else values for name, values in state.items()}
    silent = write_tl_directory(tmp_path / "silent", 0, 1, 2, 16, state=state)
    ran = bench.run(out, "--model", str(silent))
    assert ran.code == 0, ran.stderr
    tables = {Path(path).stem for path in ran.tables() if path.startswith("silent/")}
    assert tables == SCAN_ONLY | {"dla_correlation", "dla_trust", "dla_mediation"}
    taken_back = pd.read_parquet(out / "silent" / "tables" / "dla_mediation.parquet")
    assert taken_back["share"].isna().all()  # of no DLA there is nothing to take back


def test_the_dry_run_counts_verify(bench: Verifying, out: Path) -> None:
    ran = bench.run(out, "--dry-run")
    (row,) = [line for line in ran.stdout.splitlines() if "│ good" in line]
    assert [cell.strip() for cell in row.split("│")[2:4]] == ["8", "14"]
    for stage, counts in (("scan", ["8", "0"]), ("verify", ["0", "14"])):
        ran = bench.run(out, "--dry-run", stage=stage)
        (row,) = [line for line in ran.stdout.splitlines() if "│ good" in line]
        assert [cell.strip() for cell in row.split("│")[2:4]] == counts
