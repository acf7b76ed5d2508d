"""Files of earlier runs that were damaged, exchanged or moved, or that are somebody else's."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.storage.states import encode_states
from erasure_sweep.workers.worker import ShardWorker
from tests.support.bad_input import Bench, Ran, assert_finished, environment


@pytest.mark.nightly
def test_a_stored_shard_that_is_not_what_its_name_says(bench: Bench, copied: Path, measured: Ran):
    """Finished shards that were copied over another's, cut short or altered.

    The checksum of a shard covers which shard it is. One that does not fit is named in a line and measured again; the
    tables are those of an undisturbed run.
    """
    first, *others = sorted(copied.rglob("*.state"))[:4]
    contents = [path.read_bytes() for path in others]
    flipped = bytearray(contents[2])
    flipped[len(flipped) // 2] ^= 1
    for path, damaged in zip(others, (first.read_bytes(), contents[1][:-9], flipped), strict=True):
        path.write_bytes(damaged)
    ran = bench.run(copied)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()
    assert "damaged or another shard's: measured again" in " ".join(ran.stdout.split())
    assert [path.read_bytes() for path in others] == contents


@pytest.mark.nightly
def test_a_stored_shard_that_is_sealed_and_holds_something_else(bench: Bench, copied: Path, measured: Ran):
    """A finished shard with a right checksum around arrays of another kind, as a changed copy of the code may leave.

    One line says so, and that `--fresh` measures anew; it does.
    """
    path = min(copied.rglob("*.state"))
    path.write_bytes(encode_states({"projection": {"other": np.zeros(3)}}, path.stem))
    ran = bench.run(copied)
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert "sealed and do not hold what is merged" in ran.line and "--fresh" in ran.line
    again = bench.run(copied, "--fresh")
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


@pytest.mark.nightly
def test_the_second_half_of_a_sweep_on_another_cpu(bench: Bench, copied: Path, measured: Ran):
    """Half of a sweep measured, the rest on a machine whose CPU computes other last digits.

    The version of torch, its kernels and the digits of a few products belong to what a shard is. A process that computes
    otherwise measures nothing into the sweep, and says how the two differ and how to go on; the stored shards stay.
    """
    numerics = json.loads((copied / "manifest.json").read_text())["models"][0]["numerics"]
    if numerics["unit"] == "DEFAULT":
        pytest.skip("this CPU has nothing beyond the least")
    lost = sorted(copied.rglob("*.state"))[:4]
    for path in lost:
        path.unlink()
    kept = {path: path.read_bytes() for path in copied.rglob("*.state")}
    other = environment(ATEN_CPU_CAPABILITY="default")
    ran = subprocess.run(bench.command(copied), env=other, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    line = ran.stderr.splitlines()[-1]
    assert f"computes otherwise than the sweep's shards were (DEFAULT against {numerics['unit']})" in line
    assert "--fresh" in line
    assert {path: path.read_bytes() for path in copied.rglob("*.state")} == kept
    again = bench.run(copied)
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


def test_a_damaged_table_that_is_rewritten(bench: Bench, copied: Path, measured: Ran):
    """Tables that were damaged after a run, the finished shards being whole.

    The same command says of each that it is damaged, and makes it anew from the shards; nothing is measured again.
    """
    tables = copied / "good" / "tables"
    (tables / "dla_correlation.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    (tables / "carries.parquet").write_bytes((tables / "writers.parquet").read_bytes()[:-7])
    shards = {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")}
    ran = bench.run(copied)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()
    assert "".join(ran.stdout.split()).count("isdamaged") == 2
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")} == shards


def test_tables_with_flipped_bits(bench: Bench, copied: Path):
    """Single bits of tables that flipped on a disk, or on their way from another machine, where other values come out.

    Every table carries a checksum of its values, names and units: `compare` and `export` name the damaged file, and none is
    ever shown with another number.
    """
    page = copied.parent / "compare.html"
    for name in ("writers", "v_composition", "dla_trust"):
        path = copied / "good" / "tables" / f"{name}.parquet"
        content = path.read_bytes()
        path.write_bytes(other_values(content))
        for command in (["compare", str(copied), "--to", str(page)], ["export", str(copied), "--list"]):
            ran = bench.call(copied, command)
            assert (ran.code, ran.stderr.count("\n")) == (1, 1) and f"{path.name} is damaged" in ran.line, ran.stderr
        path.write_bytes(content)
    assert not page.exists()


def other_values(content: bytes) -> bytes:
    """A table with one flipped bit that libraries read without a word, and with other values."""
    whole = pd.read_parquet(io.BytesIO(content))
    for place in random.Random(0).sample(range(8 * len(content)), 2_000):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with contextlib.suppress(Exception):  # it is seen
            if not pd.read_parquet(io.BytesIO(flipped)).equals(whole):
                return bytes(flipped)
    raise AssertionError("no such bit")


@pytest.mark.parametrize("text", ['{"config": {}, "models": [{"name": "good"}]}', "a bit flipped"])
def test_a_damaged_manifest_beside_whole_results(bench: Bench, copied: Path, measured: Ran, text: str):
    """A manifest that is cut short, altered or of odd types, beside tables and finished shards that are whole.

    It has a checksum and a copy. The same command says that it is damaged, restores it and keeps everything; reading commands
    refuse it in a line until then.
    """
    manifest = copied / "manifest.json"
    altered = manifest.read_text().replace('"n_layers": 2', '"n_layers": 3')
    manifest.write_text(altered if text == "a bit flipped" else text)
    ran = bench.call(copied, ["status", str(copied)])
    assert (ran.code, ran.stderr.count("\n")) == (2, 1) and "manifest.json is damaged: the next" in ran.line
    shards = {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")}
    ran = bench.run(copied)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()
    assert "manifest.jsonisdamaged:itiswrittenanewfromitscopy" in "".join(ran.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")} == shards


def test_a_run_with_fresh_that_is_stopped_early(
    bench: Bench, copied: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    """`--fresh` on a finished sweep, interrupted after the first shard.

    What was there goes only when what replaces it is whole: all shards and tables are still there, and the same command
    without `--fresh` ends at once.
    """
    measure_whole, begun = ShardWorker.measure, []

    def measure(worker, task, *files):
        if begun:
            raise KeyboardInterrupt
        begun.append(task.id)
        return measure_whole(worker, task, *files)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "measure", measure)
        stopped = bench.run(copied, "--fresh")
    assert (stopped.code, stopped.states) == (130, {"good": "KILLED"})
    assert stopped.tables() == measured.tables() and len(stopped.shards()) == len(measured.shards())
    shards = {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")}
    ran = bench.run(copied)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.state")} == shards


def test_a_manifest_that_leads_out_of_the_folder(bench: Bench, copied: Path, measured: Ran):
    """A manifest whose folder of a model is `../../victim`, a path or a link elsewhere.

    It is checked wherever it is used, before anything is written or removed: `run` says that it is not used and gives the
    model a folder of its own, other commands refuse it, and a link is refused by all.
    """
    victim = copied.parent / "victim"
    shutil.copytree(copied / "good", victim)
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["models"][0]["folder"] = "../victim"
    del manifest["checksum"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    for command in (["compare", str(copied)], ["export", str(copied), "--list"]):
        ran = bench.call(
            copied, [*command, *(["--to", str(copied.parent / "page.html")] if command[0] == "compare" else [])]
        )
        assert (ran.code, ran.stderr.count("\n")) == (1, 1) and "'../victim' is none of the sweep's own" in ran.line
    ran = bench.run(copied, "--fresh")
    assert_finished(ran, "good")
    assert json.loads((copied / "manifest.json").read_text())["models"][0]["folder"] == "good"
    shutil.rmtree(copied / "good")
    (copied / "good").symlink_to(victim)
    for more in ([], ["--fresh"]):
        ran = bench.run(copied, *more)
        assert ran.code == 1 and f"good leads to {victim}, out of the sweep's folder" in ran.line
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before


def test_what_a_later_version_left(bench: Bench, copied: Path):
    """The folder of a run of a later version of erasure-sweep.

    Every command refuses it with the version that it needs; nothing in it is changed.
    """
    manifest = json.loads((copied / "manifest.json").read_text()) | {"version": "9.9.0", "schema_version": "99"}
    del manifest["checksum"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != "run.log"}
    commands = {
        "run": ["run", *bench.flags(copied)],
        "fresh": ["run", "--fresh", *bench.flags(copied)],
        "compare": ["compare", str(copied), "--to", str(copied.parent / "page.html")],
        "export": ["export", str(copied), "--list"],
        **{name: [name, str(copied)] for name in ("clean", "stop", "status")},
    }
    for name, command in commands.items():
        ran = bench.call(copied, command)
        assert ran.code in (1, 2) and ran.stderr.count("\n") == 1, (name, ran.stderr)
        assert "erasure-sweep 9.9.0" in ran.line, (name, ran.line)
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != "run.log"}
    assert after == before


def test_a_staging_folder_that_is_somebody_elses(bench: Bench, out: Path, tmp_path: Path):
    """`--staging` pointing at a project of one's own, or a staging folder whose `models` is a link elsewhere.

    Only files that carry this project's names, in folders that are no links, of a staging folder that it has marked, are ever
    removed by `clean --staged`. What is left alone is said.
    """
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    theirs = [project / "corpora" / "important.json", project / ".notes.tmp", elsewhere / f"{'a' * 32}.safetensors"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert bench.run(out, staging=project, stage="scan").code == 0
    staged = [path for path in project.rglob("*") if path.is_file() and path not in theirs]
    assert any(path.suffix == ".npy" for path in staged)
    shutil.rmtree(project / "models")
    (project / "models").symlink_to(elsewhere)
    ran = bench.call(out, ["clean", "--staged", "--older-than", "0d", "--staging", str(project)])
    assert ran.code == 0 and f"left alone: {project}/models and 1 more" in ran.stdout
    assert not list(project.rglob("*.npy"))
    assert all(path.exists() for path in theirs)


def test_the_store_of_a_folder_with_other_files_or_behind_a_link(bench: Bench, copied: Path):
    """Files of one's own in `OUT/.store`, or `.store` as a link to another disk.

    `clean OUT` removes finished shards and what belongs to them, and nothing else; what a link leads to is left alone, in a
    line.
    """
    notes, store = copied / ".store" / "notes.txt", copied / ".store"
    notes.write_text("mine")
    moved = copied.parent / "disk"
    store.rename(moved)
    store.symlink_to(moved)
    ran = bench.call(copied, ["clean", str(copied)])
    assert ran.code == 1 and f"{store} is a link to {moved}" in ran.line and list(moved.rglob("*.state"))
    store.unlink()
    moved.rename(store)
    ran = bench.call(copied, ["clean", str(copied)])
    assert ran.code == 0, ran.stderr
    assert [path for path in store.rglob("*") if path.is_file()] == [notes]


def test_what_a_killed_run_left_half_written(bench: Bench, copied: Path, measured: Ran):
    """Temporary files in the folder of a run, its tables and its store, of a run that was killed.

    The next run removes them, and they are never logged. Files with other names stay.
    """
    names = [
        ".writers.parquet.0123abcd.tmp",
        "good/tables/.writers.parquet.0123abcd.tmp",
        "good/figures/.a.html.0123abcd.tmp",
    ]
    left = [copied / name for name in (*names, ".store/ab/.x.state.0123abcd.tmp")]
    mine = copied / "good" / "tables" / ".draft.tmp"
    for path in (*left, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    ran = bench.run(copied)
    assert (ran.code, ran.tables()) == (0, measured.tables())
    assert not any(path.exists() for path in left) and mine.exists()
    assert not [path for path in bench.root.rglob("*.0123abcd.tmp") if copied not in path.parents]
