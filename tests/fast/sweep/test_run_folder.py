"""Where a run leaves things: writing whole files, the folder's lock, its manifest, and names of models' folders."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.sweep.manifest_writer import ManifestKeeper
from erasure_sweep.sweep.plan import sweep_id
from erasure_sweep.sweep.run import Run, staging_folder
from erasure_sweep.sweep.run_folder import RunFolder, folder_names, write_atomically
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.manifest import Manifest, ManifestConfig, ManifestEntry, NewerError
from erasure_sweep.workers.records import Numerics


def config_of(out: Path, **changes: object) -> SweepConfig:
    return build_config({"models": ["a"], "out": str(out), **changes})


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_whole(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert names_in(path.parent) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    path = tmp_path / "file"
    write_atomically(path, b"one")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(SweepError) as caught:
        write_atomically(path, b"two")
    full = code in (errno.ENOSPC, errno.EDQUOT)
    assert ("no room on the disk" if full else os.strerror(code)) in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"one"
    assert names_in(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"one")
    assert names_in(tmp_path) == []


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run.of(build_config({"models": ["a"], "name": "trial"}))
    assert (run.folder.out, run.store) == (Path("runs/trial"), "runs/trial/.store")
    config = config_of(tmp_path / "out", store=f"{tmp_path}/store/")
    run = Run.of(config)
    assert run.sweep_id == run.driver.sweep_id == sweep_id(config)
    assert (run.folder.out, run.store) == (tmp_path / "out", f"{tmp_path}/store/{run.sweep_id}")
    other = Run.of(config_of(tmp_path / "out", store="s3://bucket/shards", seed=1)).store
    assert other.startswith("s3://bucket/shards/") and not other.endswith(run.sweep_id), "sweeps are told apart"
    assert run.folder.tables("m") == tmp_path / "out" / "m" / "tables"
    assert not (tmp_path / "out").exists(), "naming places makes none"
    assert Run.of(config_of(Path("~/out"))).folder.out == Path.home() / "out"
    monkeypatch.setenv("ERASURE_SWEEP_STAGING", "/elsewhere")
    assert Run.of(config).staging == staging_folder(None) == Path("/elsewhere")
    assert Run.of(config.model_copy(update={"staging": "/here"})).staging == Path("/here")
    monkeypatch.delenv("ERASURE_SWEEP_STAGING")
    assert staging_folder(None) == Path.home() / ".cache" / "erasure-sweep"


def test_a_folder_is_one_runs_at_a_time(tmp_path: Path):
    first, second = (Run.of(config_of(tmp_path / "out")) for _ in range(2))
    with (
        first.folder.held_by(first.driver),
        pytest.raises(SweepError, match=rf"another run \(\S+, process {os.getpid()}\) is working in"),
        second.folder.held_by(second.driver),
    ):
        pass
    with second.folder.held_by(second.driver):
        assert first.folder.working_driver() == second.driver
    assert first.folder.working_driver() is None


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        run = Run.of(config_of(out))
        with pytest.raises(SweepError, match=f"^{out} cannot be written"):
            run.folder.held_by(run.driver).__enter__()


# manifests


def test_a_manifest_comes_back(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert folder.read_manifest() is None
    model = ManifestEntry(name="a", folder="a", state="FINISHED")
    manifest = Manifest(config=ManifestConfig(prompts=8), models=(model,))
    folder.write_manifest(manifest)
    assert folder.read_manifest() == manifest


DAMAGED = [
    "",
    "{",
    "[]",
    "3",
    "{}",
    '{"models": []}',
    '{"config": null, "models": []}',
    '{"config": {}, "models": {}}',
    '{"config": {}, "models": [1]}',
    '{"config": {}, "models": [{}]}',
    '{"config": {}, "models": [{"name": "a", "folder": "a"}]}',
    '{"config": {}, "models": [{"name": "a", "folder": 3, "state": "FINISHED"}]}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_manifest_without_a_copy_is_refused_unless_fresh(tmp_path: Path, text: str):
    config = config_of(tmp_path)
    folder = Run.of(config).folder
    folder.manifest.write_text(text)
    with pytest.raises(UsageError, match=r"manifest\.json is damaged, and so is its copy: .*--fresh"):
        ManifestKeeper(Run.of(config))
    ManifestKeeper(Run.of(config, fresh=True)).start([], Numerics("cpu"))
    assert folder.read_manifest().models == ()


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_manifest_is_restored_from_its_copy(tmp_path: Path, text: str):
    config = config_of(tmp_path)
    folder, said = Run.of(config).folder, []
    model = ManifestEntry(name="a", folder="a", state="FINISHED")
    folder.write_manifest(Manifest(sweep_id=Run.of(config).sweep_id, config=ManifestConfig(), models=(model,)))
    folder.manifest.write_text(text)
    with pytest.raises(UsageError, match=r"manifest\.json is damaged: the next `erasure-sweep run` .* restores it"):
        folder.read_manifest()
    ManifestKeeper(Run.of(config), said.append).start([], Numerics("cpu"))
    assert said == [f"{folder.manifest} is damaged: it is written anew from its copy"]
    assert [entry.name for entry in folder.read_manifest().models] == ["a"]


def test_what_a_later_version_wrote_is_refused(tmp_path: Path):
    config = config_of(tmp_path)
    folder = Run.of(config).folder
    newer = Manifest(sweep_id="a", version="9.9", schema_version="99", config=ManifestConfig(), models=())
    folder.write_manifest(newer)
    for fresh in (False, True):
        with pytest.raises(NewerError, match=rf"^{tmp_path} was written by erasure-sweep 9\.9 \(schema version 99\)"):
            ManifestKeeper(Run.of(config, fresh))


def test_a_folder_that_is_none_of_its_own_is_not_used(tmp_path: Path):
    config = config_of(tmp_path)
    run, said = Run.of(config), []
    models = tuple(ManifestEntry(name=n, folder=f, state="FINISHED") for n, f in (("a", "../../victim"), ("b", "b")))
    run.folder.write_manifest(Manifest(sweep_id=run.sweep_id, config=ManifestConfig(), models=models))
    ManifestKeeper(run, said.append).start([], Numerics("cpu"))
    assert said == [f"the manifest's folder '../../victim' of a is none of {tmp_path}'s own: not used"]
    assert [entry.name for entry in run.folder.read_manifest().models] == ["b"]
    for place in (run.folder.tables, run.folder.figures, run.folder.model_page, run.folder.set_aside):
        with pytest.raises(DataError, match="none of the sweep's own"):
            place("../../victim")


def test_results_are_set_aside_and_forgotten_without_what_is_somebody_elses(tmp_path: Path):
    folder = RunFolder(tmp_path)
    mine = [tmp_path / "a" / part for part in ("tables/writers.parquet", "figures/x.html", "index.html")]
    theirs = tmp_path / "a" / "figures" / "notes.txt"
    for path in (*mine, theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    folder.set_aside("a")
    assert list((tmp_path / "a").iterdir()) == []
    mine[2].write_text("begun")
    folder.set_aside("a")  # of a run that was killed before it got far
    assert not mine[2].exists() and (tmp_path / ".replaced" / "a" / "index.html").read_text() == "old"
    folder.forget_set_aside("a")
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [Path(".replaced/a/figures/notes.txt")]
    theirs.parent.mkdir(parents=True, exist_ok=True)
    folder.forget_set_aside("b")


def test_another_sweep_is_refused_and_the_difference_named(tmp_path: Path):
    config = config_of(tmp_path)
    folder = Run.of(config).folder
    ManifestKeeper(Run.of(config)).start([], Numerics("cpu"))
    ManifestKeeper(Run.of(config_of(tmp_path, models=["b"], workers=0, top=3)))
    for fresh in (False, True):
        with pytest.raises(UsageError, match=r"holds another sweep \(prompts 64, seed 0\): choose another --out"):
            ManifestKeeper(Run.of(config_of(tmp_path, prompts=8, seed=1), fresh))
    other = {"sweep_id": "0" * 32, "version": "0.0.1"}
    folder.write_manifest(folder.read_manifest().model_copy(update=other))
    with pytest.raises(UsageError, match=r"holds another sweep \(of version 0\.0\.1\)"):
        ManifestKeeper(Run.of(config))


def test_a_manifest_keeps_no_password(tmp_path: Path):
    config = config_of(tmp_path, tracking_uri="postgresql://me:secret@host/runs")
    folder = Run.of(config).folder
    ManifestKeeper(Run.of(config)).start([], Numerics("cpu"))
    assert "secret" not in folder.manifest.read_text()
    assert json.loads(folder.manifest.read_text())["config"]["tracking_uri"] == "postgresql://me:***@host/runs"


# names of folders


def test_folders_are_safe_and_unique():
    names = ["gelu-1l", "x/gelu-1l", "y/Gelu-1L/", "a b/c d", "../..", "<script>", "ü", "-", ".hidden"]
    folders = folder_names(names, {})
    assert folders == {
        "gelu-1l": "gelu-1l",
        "x/gelu-1l": "x_gelu-1l",
        "y/Gelu-1L/": "y_Gelu-1L",
        "a b/c d": "a_b_c_d",
        "../..": "model",
        "<script>": "script",
        "ü": "model-2",
        "-": "-",
        ".hidden": "hidden",
    }


def test_folders_of_revisions_are_called_like_their_model():
    names = ["gpt2@feature/x", "gpt2@refs/pr/1", "gelu-4l@65536"]
    assert list(folder_names(names, {}).values()) == ["gpt2_feature_x", "gpt2_refs_pr_1", "gelu-4l_65536"]


def test_folders_of_earlier_runs_stay():
    assert folder_names(["new/a", "old/a"], {"old/a": "a"}) == {"old/a": "a", "new/a": "new_a"}


@pytest.mark.parametrize("name", ["run.log", "manifest.json", "compare.html", "Compare.HTML"])
def test_a_model_named_like_a_file_of_the_run_has_a_folder_of_its_own(name: str):
    assert folder_names([name], {}) == {name: f"{name}-2"}
