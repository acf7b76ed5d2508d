"""Storages: one contract for folders, memory and S3; what S3 refuses; and whose store a worker may put states into."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.records import SharedStore
from erasure_sweep.workers.storage import remote as remote_storage
from erasure_sweep.workers.storage.shard_storage import FolderStorage, Storage, StorageError, find_shared, open_storage
from tests.support.servers.s3 import ROOT, S3Server


@pytest.fixture(params=["folder", "file://", "memory://", "s3://"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a storage that is still empty."""
    if request.param == "s3://":
        return request.getfixturevalue("s3").uri()
    return {"folder": str(tmp_path / "store"), "file://": f"file://{tmp_path}/store"}.get(
        request.param, f"memory://{tmp_path}"
    )


@pytest.fixture
def storage(address: str) -> Storage:
    return open_storage(address)


def sizes_in(storage: Storage) -> dict[str, int]:
    entries = storage.keys()
    return {entry.key: entry.size for entry in entries}


class TestContract:
    """What every storage does."""

    def test_an_empty_one(self, storage: Storage):
        assert storage.get("a/b") is None
        assert storage.get_many(["a/b", "c"]) == {}
        assert list(storage.keys()) == [] and list(storage.keys("a/")) == []
        storage.delete(["a/b"])

    def test_what_is_put_comes_back(self, storage: Storage):
        objects = {"mark": b"\x00\xff", "ab/c.state": b"one", "ab/d.state": b"", "deep/er/e": b"x" * 300_000}
        for key, content in objects.items():
            storage.put(key, content)
        assert {key: storage.get(key) for key in objects} == objects
        assert storage.get_many([*objects, "ab/none"]) == objects
        assert sizes_in(storage) == {key: len(v) for key, v in objects.items()}

    def test_a_later_put_replaces_an_earlier_one(self, storage: Storage):
        storage.put("a", b"long before")
        storage.put("a", b"now")
        assert storage.get("a") == b"now" and sizes_in(storage) == {"a": 3}

    def test_keys_that_begin_so(self, storage: Storage):
        for key in ("ab/1", "ab/2", "abc", "b/ab/3"):
            storage.put(key, b"")
        assert sorted(entry.key for entry in storage.keys("ab")) == ["ab/1", "ab/2", "abc"]
        assert sorted(entry.key for entry in storage.keys("ab/")) == ["ab/1", "ab/2"]
        assert [entry.key for entry in storage.keys("b/ab/3")] == ["b/ab/3"]

    def test_when_it_was_written(self, storage: Storage):
        before = time.time()
        storage.put("a", b"")
        (entry,) = storage.keys()
        assert entry.modified is not None and before - 2 <= entry.modified <= time.time() + 2

    def test_only_what_is_named_is_deleted(self, storage: Storage):
        for key in ("a/1", "a/2", "a/3"):
            storage.put(key, b"")
        storage.delete(key for key in ("a/1", "a/3", "a/4"))
        assert set(sizes_in(storage)) == {"a/2"}

    def test_create_never_replaces(self, storage: Storage):
        assert storage.create("a", b"first")
        assert not storage.create("a", b"second")
        assert storage.get("a") == b"first"
        storage.delete(["a"])
        assert storage.create("a", b"third") and storage.get("a") == b"third"

    def test_what_one_writes_another_reads(self, storage: Storage, address: str):
        other = open_storage(address)
        assert other.get("a") is None and list(other.keys()) == []
        storage.put("a", b"there")
        assert other.get("a") == b"there" and set(sizes_in(other)) == {"a"}
        assert open_storage(storage.location).get("a") == b"there"

    def test_local_files(self, storage: Storage):
        storage.put("a/1", b"one")
        storage.put("a/2", b"two")
        with storage.local(["a/2", "a/1", "a/2"]) as paths:
            assert [path.read_bytes() for path in paths] == [b"two", b"one", b"two"]
        if not isinstance(storage, FolderStorage):
            assert not any(path.exists() or path.parent.exists() for path in paths), "copies stay behind"
        assert storage.get("a/1") == b"one"

    def test_local_files_that_are_gone(self, storage: Storage):
        storage.put("a/1", b"one")
        with pytest.raises(StorageError, match=r"gone from .*: run again"), storage.local(["a/1", "a/2"]):
            pass


@pytest.mark.parametrize("address", ["folder", "s3://"], indirect=True)
@pytest.mark.parametrize("attempt", range(2))
def test_of_many_who_create_one_succeeds(address: str, attempt: int):
    storages = [open_storage(address) for _ in range(6)]
    start = threading.Barrier(len(storages))
    told: dict[int, bool] = {}

    def create(number: int) -> None:
        start.wait()
        told[number] = storages[number].create("lease", f"{number}".encode())

    threads = [threading.Thread(target=create, args=(number,)) for number in range(len(storages))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, created in told.items() if created]
    assert len(told) == 6 and len(winners) == 1
    assert storages[0].get("lease") == f"{winners[0]}".encode()


# folders


def test_a_folder_holds_plain_files_and_nothing_else(tmp_path: Path):
    storage = FolderStorage(tmp_path / "store")
    storage.put("ab/c", b"one")
    storage.create("d", b"two")
    storage.create("d", b"three")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == ["store/ab/c", "store/d"]
    assert storage.address == storage.location == str(tmp_path / "store")
    with storage.local(["ab/c"]) as paths:
        assert paths == [tmp_path / "store/ab/c"], "a folder's files are read where they are"


def test_what_a_killed_process_left_half_written_is_no_object(tmp_path: Path):
    storage = FolderStorage(tmp_path)
    storage.put("ab/c", b"one")
    (tmp_path / "ab" / ".c.0123abcd.tmp").write_bytes(b"o")
    assert set(sizes_in(storage)) == {"ab/c"}


def test_folders_are_absolute_and_may_be_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_storage("~/store").address == str(tmp_path / "store")
    assert open_storage("store").location == str(tmp_path / "store")


def test_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = FolderStorage(tmp_path)
    assert storage.create("a", b"one") and not storage.create("a", b"two")
    assert storage.get("a") == b"one" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    storage = FolderStorage(tmp_path / "file")
    for use in (lambda: storage.put("a", b""), lambda: storage.create("a", b""), lambda: storage.get("a")):
        with pytest.raises(
            StorageError, match=f"{tmp_path}/file/a cannot be written .*: choose another --out or --store"
        ):
            use()


# addresses


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("foo://x/y", UsageError, "nothing opens foo://"),
        ("s3://", UsageError, "names no bucket"),
        ("gs://bucket/x", StorageError, "needs the Python package gcsfs: pip install gcsfs"),
        ("ftp://me:secret@127.0.0.1:1/x", StorageError, r"ftp://me:\*\*\*@127.0.0.1:1/x does not answer"),
    ],
)
def test_addresses_that_cannot_be_opened(address: str, kind: type[SweepError], said: str):
    with pytest.raises(kind, match=said) as caught:
        open_storage(address)
    assert "secret" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_password_is_kept_but_not_shown():
    storage = open_storage("memory://me:secret@host/store")
    assert storage.address == "memory://me:***@host/store"
    assert storage.location == "memory://me:secret@host/store"


def test_s3_without_its_package():
    script = "import sys; sys.modules['s3fs'] = None; from erasure_sweep.workers.storage.shard_storage import open_storage; open_storage('s3://b/x')"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "s3://b/x needs the Python package s3fs: pip install 'erasure-sweep[s3]'" in ran.stderr.splitlines()[-1]


# S3


USES = {
    "put": lambda storage: storage.put("a", b"x"),
    "create": lambda storage: storage.create("a", b"x"),
    "get": lambda storage: storage.get("a"),
    "get_many": lambda storage: storage.get_many(["a", "b"]),
    "delete": lambda storage: storage.delete(["a"]),
    "keys": lambda storage: list(storage.keys()),
}


@pytest.mark.parametrize("use", USES)
def test_there_is_no_such_bucket(s3: S3Server, use: str):
    with pytest.raises(
        StorageError, match=r"^the store s3://other/x has no such bucket: check its name .*another --store$"
    ):
        USES[use](open_storage("s3://other/x"))


@pytest.mark.parametrize("use", USES)
def test_wrong_keys(s3: S3Server, use: str):
    storage = open_storage(s3.uri())
    s3.ask_for_keys()
    try:
        with pytest.raises(StorageError, match=r"refuses \(InvalidAccessKeyId\): check the keys \(AWS_ACCESS_KEY_ID"):
            USES[use](storage)
    finally:
        s3.ask_for_keys(False)


def test_no_keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"refuses \(NoCredentialsError\): check the keys"):
        open_storage(s3.uri()).get("a")


@pytest.mark.parametrize("use", USES)
def test_nobody_answers(use: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_storage, "PATIENCE_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"does not answer \(.*\): check the network and AWS_ENDPOINT_URL"):
        USES[use](open_storage(s3.uri()))


@pytest.mark.parametrize("use", ["put", "get_many"])
def test_a_server_that_hangs_is_not_waited_for(use: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    assert remote_storage.PATIENCE_S + remote_storage.ANSWER_S <= 30
    monkeypatch.setattr(remote_storage, "PATIENCE_S", 0.5)
    monkeypatch.setattr(remote_storage, "ANSWER_S", 1)
    monkeypatch.setattr(remote_storage, "SLOWEST_PUT", 10_000_000)
    storage = open_storage(s3.uri())
    with s3.pause(), pytest.raises(StorageError, match="does not answer"):
        storage.put("a", b"x" * 10_000_000) if use == "put" else storage.get_many([f"{i}" for i in range(100)])


@pytest.mark.parametrize("use", USES)
def test_a_server_that_is_busy_is_asked_again(use: str, s3: S3Server):
    storage = open_storage(s3.uri())
    s3.fail_next(2)
    USES[use](storage)


def test_content_is_verified_on_its_way(s3: S3Server):
    """The stand-in alters what it receives and checks the MD5 that came with it, as S3 does."""
    storage = open_storage(s3.uri())
    s3.damage_next()
    storage.put("a", b"as it was")
    assert storage.get("a") == b"as it was"
    s3.damage_next()
    assert storage.create("b", b"as it was") and storage.get("b") == b"as it was"


def test_a_creation_whose_answer_got_lost_succeeded(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    storage = open_storage(s3.uri())
    created = storage._create
    lost: list[str] = []

    def create(path: str, content: bytes) -> bool:
        told = created(path, content)
        if not lost:
            lost.append(path)
            raise TimeoutError
        return told

    monkeypatch.setattr(storage, "_create", create)
    assert storage.create("a", b"mine") and storage.get("a") == b"mine"
    lost.clear()
    assert not storage.create("a", b"another's")


# whose store it is


def test_the_drivers_store_is_found_by_its_mark(storage: Storage, address: str):
    storage.put("mark", b"0123")
    found = find_shared(SharedStore(storage.location, "0123"))
    assert found is not None
    found.put("a", b"one")
    assert storage.get("a") == b"one"
    assert find_shared(SharedStore(storage.location, "4567")) is None
    assert find_shared(SharedStore(f"{storage.location}/other", "0123")) is None


def test_whatever_is_wrong_with_it_a_store_is_just_not_found(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_bytes(b"")
    for location in ("foo://x", "gs://x/y", "s3://other/x", str(tmp_path / "none"), str(tmp_path / "file" / "x"), "\0"):
        assert find_shared(SharedStore(location, "0123")) is None
    assert not (tmp_path / "none").exists(), "looking makes no folder"
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", "not an address")
    assert find_shared(SharedStore(s3.uri(), "0123")) is None
