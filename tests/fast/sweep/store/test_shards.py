"""The store, what workers put there, and the encoding of states: whole or absent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch

from erasure_sweep.sweep.store.shards import ShardStore, block_keys
from erasure_sweep.workers import worker as actor
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.records import Numerics, ShardResult, ShardTask, SharedStore, TrustWork, WriterBlock
from erasure_sweep.workers.storage.shard_storage import FolderStorage, Storage, StorageError, find_shared, open_storage
from erasure_sweep.workers.storage.states import decode_state, encode_states, is_of_another_version, is_whole
from erasure_sweep.workers.version import RESULTS_VERSION
from erasure_sweep.workers.worker import RemoteShardWorker, ShardWorker
from tests.support.models.random_models import random_lean

ID, OTHER = "ab" * 16, "cd" * 16
KEY = f"ab/{ID}.state"
BLOCK = WriterBlock(0, 1)
STATE = {"counts": np.arange(500, dtype=np.uint32), "n": np.array(3)}


def test_states_come_back_as_they_went() -> None:
    encoded = encode_states({"projection": STATE, "other": {"x": np.zeros(2)}}, ID)
    back = decode_state(encoded, ID, "projection")
    assert set(back) == set(STATE)
    assert all(np.array_equal(back[name], STATE[name]) and back[name].dtype == STATE[name].dtype for name in STATE)


def test_objects_are_never_unpickled() -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        encode_states({"m": {"x": objects}}, ID)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"m/x": objects})
    payload = buffer.getvalue()
    with pytest.raises(DataError, match="allow_pickle"):
        decode_state(sealed(payload), ID, "m")


def sealed(payload: bytes) -> bytes:
    """Any bytes with a seal that is right."""
    head = f"erasure-sweep state {RESULTS_VERSION}\n".encode()
    return head + blake2b(head + ID.encode() + payload, digest_size=16).digest() + payload


def test_sealed_bytes_that_hold_no_arrays_are_named():
    for payload in (b"x", b"PK\x03\x04 no archive", b"\x93NUMPY"):
        assert is_whole(sealed(payload), ID)
        with pytest.raises(DataError, match=f"{ID} is sealed and holds no arrays .*--fresh"):
            decode_state(sealed(payload), ID, "m")


def test_other_versions_are_told_from_damage():
    encoded = encode_states({"m": {"x": np.zeros(1)}}, ID)
    assert is_of_another_version(b"erasure-sweep state 99\n...")
    assert is_of_another_version(blake2b(b"payload", digest_size=16).digest() + b"payload")
    for content in (encoded, encoded[:-1], b"", b"\x00" * 100, b"erasure-sweep state"):
        assert not is_of_another_version(content)


def test_the_state_of_another_version_is_not_whole():
    encoded = encode_states({"m": {"x": np.zeros(1)}}, ID)
    assert not is_whole(encoded.replace(b"state 7\n", b"state 6\n"), ID)


DAMAGES = [
    lambda b: b[:-1],
    lambda b: b[:8],
    lambda b: b"",
    lambda b: b[:60] + b"x" + b[61:],
    lambda b: encode_states({"projection": STATE}, OTHER),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_torn_and_altered_states_are_noticed(damage):
    encoded = encode_states({"projection": STATE}, ID)
    damaged = damage(encoded)
    assert is_whole(encoded, ID) and not is_whole(damaged, ID)
    with pytest.raises(DataError, match=f"the stored shard {ID} is damaged: run again"):
        decode_state(damaged, ID, "projection")


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "deep" / "store" if request.param == "folder" else f"memory://{tmp_path}")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shards_are_named_removed_and_not_finished(damage, storage: Storage, caplog: pytest.LogCaptureFixture):
    encoded, said = encode_states({"projection": STATE}, ID), []
    ShardStore(storage).put(ID, encoded)
    ShardStore(storage).put(OTHER, encode_states({"projection": STATE}, OTHER))
    assert ShardStore(storage, said.append).finished([ID, OTHER]) == {ID, OTHER}
    storage.put(KEY, damage(encoded))
    assert said == []
    assert ShardStore(storage, said.append).finished([ID, OTHER]) == {OTHER}
    assert said == [f"{storage.address}/{KEY} is damaged or another shard's: measured again"]
    assert storage.get(KEY) is None
    assert f"shard {ID}: {storage.address}/{KEY} is damaged and is measured again" in caplog.text


def test_a_shard_counts_once_it_is_put(storage: Storage):
    store = ShardStore(storage)
    assert store.finished([ID]) == set()
    store.put(ID, encode_states({"projection": STATE}, ID))
    assert store.finished([ID, OTHER]) == {ID}
    assert keys_in(storage) == {KEY}
    store.discard([ID, OTHER])
    assert store.finished([ID]) == set()
    assert keys_in(storage) == set()


def test_numerics_bind_where_there_are_shards(storage: Storage):
    store, numerics = ShardStore(storage), Numerics("cpu", "AVX2")
    store.note_numerics(numerics)
    assert store.numerics("cpu") is None
    store.put(ID, encode_states({"projection": STATE}, ID))
    assert (store.numerics("cpu"), store.numerics("cuda")) == (numerics, None)


def test_what_a_worker_has_put_counts_as_well(storage: Storage):
    store = ShardStore(storage)
    assert store.finished([ID, OTHER]) == set()
    storage.put(KEY, encode_states({"projection": STATE}, ID))
    store.put(ID, None)
    assert store.finished([ID, OTHER]) == {ID}
    store.discard([ID])
    assert keys_in(storage) == set()


def test_other_objects_in_the_store_are_left_alone(storage: Storage):
    storage.put("driver.json", b"{}")
    store = ShardStore(storage)
    store.put(ID, b"damaged")
    assert store.finished([ID]) == set()
    store.discard([ID])
    assert keys_in(storage) == {"driver.json"}


def test_no_more_is_read_at_a_time_than_memory_holds(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    ids = [f"{i:032x}" for i in range(20)]
    states = {shard_id: encode_states({"m": {"x": np.full(50 + i, i)}}, shard_id) for i, shard_id in enumerate(ids)}
    for shard_id, state in states.items():
        ShardStore(storage).put(shard_id, state)
    monkeypatch.setattr("erasure_sweep.sweep.store.shards.BATCH_BYTES", 1000)
    read: list[int] = []
    whole = type(storage).get_many

    def get_many(storage: Storage, keys: Sequence[str]) -> dict[str, bytes]:
        found = whole(storage, keys)
        read.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(type(storage), "get_many", get_many)
    assert ShardStore(storage).finished([*ids, OTHER]) == set(ids)
    assert max(read) <= 1000 < sum(read) == sum(map(len, states.values()))
    monkeypatch.setattr("erasure_sweep.sweep.store.shards.BATCH_BYTES", 1)
    assert ShardStore(storage).finished(ids) == set(ids), "what is larger is read one by one"


def test_a_store_is_shared_by_a_mark_of_its_own(storage: Storage):
    shares = [ShardStore(storage).share() for _ in range(2)]
    assert shares[0].mark != shares[1].mark
    assert storage.get("mark") == shares[1].mark.encode()
    assert find_shared(shares[0]) is None
    assert find_shared(shares[1]) is not None


def test_keys_of_blocks_are_in_the_order_of_the_plan():
    first, second = WriterBlock(0, 4), WriterBlock(4, 8)
    tasks = [task_of(ID, first), task_of("0" * 32, second), task_of(OTHER, first)]
    keys = [KEY, f"cd/{OTHER}.state"]
    assert block_keys(tasks) == [(first, keys), (second, [f"00/{'0' * 32}.state"])]


# workers


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> RemoteShardWorker:
    """Whose every shard has the same state."""
    monkeypatch.setattr(ShardWorker, "measure", lambda _, task, *files: ShardResult(task.id, b"measured", task.batch))
    return RemoteShardWorker(threads=1)


def test_a_worker_puts_states_where_it_finds_the_drivers_store(worker: RemoteShardWorker, storage: Storage):
    shared = ShardStore(storage).share()
    assert worker.measure_remote(task_of(ID), {}, shared) == ShardResult(ID, None, 4)
    assert storage.get(KEY) == b"measured"


@pytest.mark.parametrize("case", ["none", "another", "nothing there"])
def test_a_worker_returns_states_where_it_does_not(worker: RemoteShardWorker, storage: Storage, case: str):
    shared = ShardStore(storage).share()
    where = {
        "none": None,
        "another": shared._replace(mark="0"),
        "nothing there": SharedStore(f"{shared.location}/x", "0"),
    }
    assert worker.measure_remote(task_of(ID), {}, where[case]) == ShardResult(ID, b"measured", 4)
    assert keys_in(storage) == {"mark"}


def test_a_worker_that_cannot_put_a_state_returns_it(
    worker: RemoteShardWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shared = ShardStore(FolderStorage(tmp_path)).share()

    def fail(storage: Storage, key: str, content: bytes) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStorage, "put", fail)
        assert worker.measure_remote(task_of(ID), {}, shared) == ShardResult(ID, b"measured", 4)
    assert worker.measure_remote(task_of(OTHER), {}, shared) == ShardResult(OTHER, None, 4), "it tries again"


def test_a_store_is_looked_for_once(worker: RemoteShardWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked: list[SharedStore] = []

    def look(shared: SharedStore) -> None:
        looked.append(shared)

    monkeypatch.setattr(actor, "find_shared", look)
    first, second = SharedStore("a", "1"), SharedStore("a", "2")
    for shared in (first, first, second, second):
        worker.measure_remote(task_of(ID), {}, shared)
    assert looked == [first, second]


def test_a_batch_that_memory_did_not_hold_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    tried: list[tuple[str, int]] = []

    def measure(
        model: object, task: ShardTask, prompts: object, batch: int, means: object, placebos: object
    ) -> dict[str, dict[str, np.ndarray]]:
        tried.append((task.id, batch))
        if task.model_hash == "large" and batch > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return {}

    monkeypatch.setattr(actor, "measure_shard", measure)
    monkeypatch.setattr(actor, "load_tokens", lambda source: None)
    model = random_lean(0, 1, 1, 4).model
    monkeypatch.setattr(ShardWorker, "_model", lambda *_: model)
    worker = ShardWorker(threads=1)
    tasks = [task_of(ID, model="large", batch=8), task_of(OTHER, model="large", batch=8)]
    small = task_of("ef" * 16, model="small", batch=8)
    assert [worker.measure(task).batch for task in (*tasks, small)] == [2, 2, 8]
    assert tried == [(ID, 8), (ID, 4), (ID, 2), (OTHER, 2), (small.id, 8)]
    assert worker.measure(task_of(ID, model="large", batch=1)).batch == 1, "a smaller one is not made larger"


def task_of(shard_id: str, block: WriterBlock = BLOCK, model: str = "m", batch: int = 4) -> ShardTask:
    """A shard whose files are there: this one."""
    files = (__file__, __file__)
    return ShardTask(shard_id, "trust", model, *files, 0, 1, None, 0, TrustWork(block, 128), batch, "cpu", "float32")


def keys_in(storage: Storage) -> set[str]:
    entries = storage.keys()
    return {entry.key for entry in entries}
