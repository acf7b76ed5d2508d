"""The store and the encoding of states: whole or absent."""

from __future__ import annotations

import io
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from sweep.store import ShardStore
from workers.encoding import decode_state, encode_states, is_whole
from workers.errors import DataError

ID = "ab" * 16
STATE = {"counts": np.arange(500, dtype=np.uint32), "n": np.array(3)}


def test_states_come_back_as_they_went() -> None:
    encoded = encode_states({"projection": STATE, "other": {"x": np.zeros(2)}})
    back = decode_state(encoded, "projection")
    assert set(back) == set(STATE)
    assert all(np.array_equal(back[name], STATE[name]) and back[name].dtype == STATE[name].dtype for name in STATE)


def test_objects_are_never_unpickled() -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        encode_states({"m": {"x": objects}})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"m/x": objects})
    payload = buffer.getvalue()
    with pytest.raises(ValueError, match="allow_pickle"):
        decode_state(blake2b(payload, digest_size=16).digest() + payload, "m")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:8], lambda b: b"", lambda b: b[:40] + b"x" + b[41:]])
def test_torn_and_altered_states_are_noticed(damage, tmp_path: Path) -> None:
    encoded = encode_states({"projection": STATE})
    damaged = damage(encoded)
    assert is_whole(encoded) and not is_whole(damaged)
    with pytest.raises(DataError):
        decode_state(damaged, "projection")
    store = ShardStore(tmp_path)
    store.put(ID, encoded)
    assert store.finished([ID]) == {ID}
    store.path(ID).write_bytes(damaged)
    assert store.finished([ID]) == set()
    assert not store.path(ID).exists()


def test_a_shard_counts_once_it_is_written(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "deep" / "store")
    assert store.finished([ID]) == set()
    store.put(ID, encode_states({"projection": STATE}))
    assert store.finished([ID, "cd" * 16]) == {ID}
    assert [path.name for path in store.path(ID).parent.iterdir()] == [f"{ID}.state"]
    store.discard([ID, "cd" * 16])
    assert store.finished([ID]) == set()
