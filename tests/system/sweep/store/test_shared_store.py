"""Finished shards in a store that several runs and machines see: the same tables, nothing lost and nothing measured twice."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from erasure_sweep.sweep.store.shards import ShardStore
from erasure_sweep.workers.records import ShardResult, ShardTask
from erasure_sweep.workers.worker import ShardWorker
from tests.support.bad_input import Bench, Ran, assert_finished, assert_refused, environment
from tests.support.servers.s3 import S3Server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("shared_store"))
    (bench.root / "trial.yaml").write_text("block_prompts: 2")  # shards enough to be killed among them
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> Ran:
    """A run with a store of its own, in OUT."""
    (bench.root / "undisturbed").mkdir()
    ran = run(bench, bench.root / "undisturbed" / "out", None)
    assert_finished(ran, "good")
    return ran


@pytest.fixture
def store(s3: S3Server) -> str:
    return s3.uri()


def shards_in(s3: S3Server, store: str) -> dict[str, str]:
    """Hash of every finished shard's content, by the end of its key: of what one sweep left in a store of its own."""
    prefix = store.removeprefix(f"s3://{s3.bucket}/")
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{prefix}/").get("Contents", [])
    keys = {entry["Key"]: entry["ETag"] for entry in listed if entry["Key"].endswith(".state")}
    assert len({key.removeprefix(f"{prefix}/").split("/")[0] for key in keys}) <= 1, "of several sweeps"
    return {key.rpartition("/")[2]: tag for key, tag in keys.items()}


def run(bench: Bench, out: Path, store: str | None, **changes: object) -> Ran:
    return bench.run(out, str(bench.root / "trial.yaml"), store=store, **changes)


@pytest.fixture
def measured_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is measured in this process from here on."""
    ids: list[str] = []
    measure = ShardWorker.measure

    def noted(worker: ShardWorker, task: ShardTask) -> ShardResult:
        ids.append(task.id)
        return measure(worker, task)

    monkeypatch.setattr(ShardWorker, "measure", noted)
    return ids


def test_the_same_from_s3_as_from_a_folder_of_its_own(
    bench: Bench, s3: S3Server, out: Path, store: str, undisturbed: Ran
):
    ran = run(bench, out, store)
    assert_finished(ran, "good")
    assert ran.tables() == undisturbed.tables()
    assert set(shards_in(s3, store)) == {path.name for path in undisturbed.shards()}
    assert not (out / ".store").exists() and not ran.shards()


@pytest.mark.nightly
def test_what_one_run_measured_another_needs_not(
    bench: Bench, s3: S3Server, out: Path, tmp_path: Path, store: str, undisturbed: Ran, measured_ids: list[str]
):
    assert_finished(run(bench, out, store), "good")
    before, measured_ids[:] = shards_in(s3, store), []
    elsewhere = run(bench, tmp_path / "elsewhere", store)
    assert_finished(elsewhere, "good")
    assert measured_ids == [] and shards_in(s3, store) == before
    assert elsewhere.tables() == undisturbed.tables()


@pytest.mark.nightly
def test_sweeps_share_a_store_and_are_told_apart(
    bench: Bench, out: Path, tmp_path: Path, undisturbed: Ran, measured_ids: list[str]
):
    store = tmp_path / "store"
    n_shards = len(undisturbed.shards())
    assert_finished(run(bench, out, str(store)), "good")
    assert_finished(run(bench, tmp_path / "other", str(store), seed=1), "good")
    assert_finished(run(bench, tmp_path / "again", str(store)), "good")
    sweeps = [path for path in store.iterdir() if path.is_dir()]
    assert [len(list(sweep.rglob("*.state"))) for sweep in sweeps] == [n_shards] * 2
    assert len(measured_ids) == 2 * n_shards


@pytest.mark.nightly
def test_a_damaged_object_is_measured_again(
    bench: Bench, s3: S3Server, out: Path, tmp_path: Path, store: str, undisturbed: Ran, measured_ids: list[str]
):
    assert_finished(run(bench, out, store), "good")
    before, measured_ids[:] = shards_in(s3, store), []
    key = next(key for key in s3.keys(store.removeprefix(f"s3://{s3.bucket}/")) if key.endswith(".state"))
    content = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=content[:-1])
    ran = run(bench, tmp_path / "again", store)
    assert_finished(ran, "good")
    assert [f"{shard}.state" for shard in measured_ids] == [key.rpartition("/")[2]]
    assert f"s3://{s3.bucket}/{key} is damaged and is measured again" in (ran.out / "run.log").read_text()
    assert ran.tables() == undisturbed.tables()
    assert shards_in(s3, store).keys() == before.keys()


@pytest.mark.nightly
def test_workers_put_states_themselves(
    bench: Bench, s3: S3Server, out: Path, store: str, undisturbed: Ran, monkeypatch: pytest.MonkeyPatch
):
    came: list[bool] = []
    put = ShardStore.put

    def noted(store: ShardStore, shard: str, state: bytes | None) -> None:
        came.append(state is not None)
        put(store, shard, state)

    monkeypatch.setattr(ShardStore, "put", noted)
    ran = run(bench, out, store, workers=2)
    assert_finished(ran, "good")
    assert ran.tables() == undisturbed.tables()
    assert set(shards_in(s3, store)) == {path.name for path in undisturbed.shards()}
    assert len(came) == len(undisturbed.shards()) and not any(came), "states went through the driver"


@pytest.mark.nightly
def test_killed_and_gone_on_from_elsewhere(
    bench: Bench, s3: S3Server, out: Path, tmp_path: Path, store: str, undisturbed: Ran, measured_ids: list[str]
):
    command = bench.command(out, str(bench.root / "trial.yaml"), store=store)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(shards_in(s3, store)) >= 3, process)
    done = len(shards_in(s3, store))
    process.kill()
    process.communicate()
    assert done < len(undisturbed.shards())
    ran = run(bench, tmp_path / "elsewhere", store)
    assert_finished(ran, "good")
    assert ran.tables() == undisturbed.tables()
    assert 0 < len(measured_ids) <= len(undisturbed.shards()) - done


@pytest.mark.nightly
def test_a_store_that_fails_ends_the_run_and_the_next_one_goes_on(
    bench: Bench, s3: S3Server, out: Path, store: str, undisturbed: Ran, monkeypatch: pytest.MonkeyPatch
):
    measure = ShardWorker.measure
    measured: list[str] = []

    def refused_after_five(worker: ShardWorker, task: ShardTask) -> ShardResult:
        measured.append(task.id)
        s3.ask_for_keys(len(measured) == 5)
        return measure(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "measure", refused_after_five)
        ran = run(bench, out, store)
    monkeypatch.setattr("erasure_sweep.sweep.store.lease.LEASE_S", 1.0)  # its own lease could not be marked as ended
    s3.ask_for_keys(False)
    assert_refused(ran, 1, f"the store {store}/", "refuses (InvalidAccessKeyId): check the keys")
    assert ran.states == {"good": "FAILED"}
    assert set(shards_in(s3, store)) == {f"{shard}.state" for shard in measured[:4]}
    again = run(bench, out, store)
    assert_finished(again, "good")
    assert again.tables() == undisturbed.tables()


@pytest.mark.nightly
def test_a_store_that_falls_silent_ends_the_run(
    bench: Bench, s3: S3Server, out: Path, store: str, undisturbed: Ran, monkeypatch: pytest.MonkeyPatch
):
    measure = ShardWorker.measure
    silence = contextlib.ExitStack()

    def silent_after_three(worker: ShardWorker, task: ShardTask) -> ShardResult:
        if len(shards_in(s3, store)) == 3:
            # not before: a busy machine takes its time to answer
            patch.setattr("erasure_sweep.workers.storage.remote.PATIENCE_S", 2.0)
            patch.setattr("erasure_sweep.workers.storage.remote.ANSWER_S", 1)
            silence.enter_context(s3.pause())
        return measure(worker, task)

    with monkeypatch.context() as patch, silence:
        patch.setattr(ShardWorker, "measure", silent_after_three)
        ran = run(bench, out, store)
    monkeypatch.setattr("erasure_sweep.sweep.store.lease.LEASE_S", 1.0)  # its own lease could not be marked as ended
    assert_refused(ran, 1, f"the store {store}/", "does not answer", "check the network")
    assert len(shards_in(s3, store)) in (3, 4)  # what had reached the store may still have been put
    again = run(bench, out, store)
    assert_finished(again, "good")
    assert again.tables() == undisturbed.tables()


@pytest.mark.nightly
def test_shards_that_vanish_are_said_to(
    bench: Bench, s3: S3Server, out: Path, store: str, undisturbed: Ran, monkeypatch: pytest.MonkeyPatch
):
    put = ShardStore.put
    lost: list[str] = []

    def lose_one(store: ShardStore, shard: str, state: bytes | None) -> None:
        put(store, shard, state)
        if not lost:
            lost.append(shard)
            key = next(key for key in s3.keys(store.address.removeprefix(f"s3://{s3.bucket}/")) if shard in key)
            s3.client().delete_object(Bucket=s3.bucket, Key=key)

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "put", lose_one)
        assert_refused(run(bench, out, store), 1, "finished shards are gone from", store, "run again")
    again = run(bench, out, store)
    assert_finished(again, "good")
    assert again.tables() == undisturbed.tables()


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("foo://bucket/x", 2, "nothing opens foo://"),
        ("s3://nowhere/x", 1, "has no such bucket"),
        ("gs://bucket/x", 1, "needs the Python package gcsfs: pip install gcsfs"),
    ],
)
def test_stores_that_cannot_be_used(
    bench: Bench, out: Path, measured_ids: list[str], address: str, code: int, said: str
):
    assert_refused(run(bench, out, address), code, said)
    assert measured_ids == []


def test_a_store_that_nobody_answers_for(
    bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch, measured_ids: list[str]
):
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("erasure_sweep.workers.storage.remote.PATIENCE_S", 1.0)
    assert_refused(run(bench, out, "s3://bucket/x"), 1, "does not answer", "check the network and AWS_ENDPOINT_URL")
    assert measured_ids == []


def test_a_password_in_an_address_is_not_left_behind(bench: Bench, out: Path):
    ran = run(bench, out, "ftp://me:secret@127.0.0.1:1/x")
    assert_refused(ran, 1, "ftp://me:***@127.0.0.1:1/x")
    assert "secret" not in ran.stderr + ran.stdout
    assert not [path for path in out.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
