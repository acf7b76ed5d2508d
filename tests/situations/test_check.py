"""Whether what runs left is whole: `erasure-sweep check`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.bad_input import Bench, Ran, assert_finished


@pytest.fixture(scope="module")
def measured(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """An undisturbed run with a staging folder of its own."""
    root = tmp_path_factory.mktemp("measured")
    ran = bench.run(root / "out", staging=root / "staging")
    assert_finished(ran, "good")
    return ran


@pytest.fixture
def staging(measured: Ran, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured.out.parent / "staging", tmp_path / "staging"))


def test_a_folder_copied_from_another_disk(bench: Bench, copied: Path, staging: Path, measured: Ran):
    """A run's folder after a move, a crash or a doubtful disk.

    `check` verifies every finished shard, table and staged file, the manifest and what it names, and changes nothing. It prints
    a line for each thing that is not as it should be and exits with 1; the next run repairs what it names, and it exits with 0.
    """
    ran = bench.call(copied, ["check", str(copied), "--staging", str(staging)])
    assert (ran.code, ran.stderr) == (0, ""), ran.stdout
    assert f"{len(measured.shards())} finished shards" in ran.stdout and "1 manifest" in ran.stdout

    shards, tables = sorted(copied.rglob("*.state")), copied / "good" / "tables"
    shutil.copy(shards[0], shards[1])
    (tables / "carries.parquet").write_bytes((tables / "carries.parquet").read_bytes()[:-3])
    (tables / "dla_trust.parquet").unlink()
    (copied / "good" / "index.html").unlink()
    (copied / ".manifest.json").unlink()
    (copied / "good" / "tables" / ".x.parquet.0123abcd.tmp").write_bytes(b"half")
    (weights,) = (staging / "models").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = (
        shards[1],
        "carries.parquet",
        "dla_trust.parquet",
        "index.html",
        "manifest.json",
        "0123abcd.tmp",
        weights,
    )
    before = contents(copied)
    ran = bench.call(copied, ["check", str(copied), "--staging", str(staging)])
    assert (ran.code, ran.stderr.count("\n")) == (1, 1) and "7 things not as it should be" in ran.line, ran.stdout
    lines = ran.stdout.splitlines()
    assert len(lines) == 8
    assert all(any(str(name) in line for line in lines) for name in damaged), ran.stdout
    assert contents(copied) == before

    repaired = bench.run(copied, staging=staging)
    assert_finished(repaired, "good")
    assert repaired.tables() == measured.tables()
    ran = bench.call(copied, ["check", str(copied), "--staging", str(staging)])
    assert (ran.code, ran.stderr) == (0, ""), ran.stdout


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_that_several_sweeps_share(bench: Bench, copied: Path, tmp_path: Path):
    """A store, as a folder or on S3, with shards that were exchanged, damaged, or written by another version.

    `check STORE` verifies all of them. What another version wrote, and files that are none of this project's, are counted as
    not checked.
    """
    store = tmp_path / "shared"
    shutil.copytree(copied / ".store", store / ("1" * 32))
    (store / "notes.txt").write_text("mine")
    shards = sorted(store.rglob("*.state"))
    content = shards[0].read_bytes()
    shards[0].write_bytes(b"erasure-sweep state 99\n" + content)
    ran = bench.call(copied, ["check", str(store)])
    assert ran.code == 0, ran.stderr
    assert "not checked: 1 finished shard of another version" in ran.stdout and "not checked: 1 file in" in ran.stdout
    assert f"{len(shards) - 1} finished shards" in ran.stdout
    shutil.copy(shards[1], shards[2])
    ran = bench.call(copied, ["check", str(store)])
    assert ran.code == 1 and f"{shards[2]} is damaged, or another shard's" in "".join(ran.stdout.splitlines())


def test_what_is_no_run_and_no_store(bench: Bench, copied: Path, tmp_path: Path):
    """`check` on a folder with neither, on a path that is not there, or on what a later version wrote.

    One line each, that says what to name, or which version is needed.
    """
    (tmp_path / "empty").mkdir()
    for target, said in (("empty", "holds neither a run nor finished shards"), ("none", "is no folder")):
        ran = bench.call(copied, ["check", str(tmp_path / target)])
        assert (ran.code, ran.stderr.count("\n")) == (2, 1) and said in ran.line
    manifest = json.loads((copied / "manifest.json").read_text()) | {"version": "9.9.0", "schema_version": "99"}
    del manifest["checksum"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    ran = bench.call(copied, ["check", str(copied)])
    assert ran.code == 2 and "erasure-sweep 9.9.0" in ran.line
