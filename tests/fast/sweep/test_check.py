"""Checking a store, wherever it is: what is whole is counted, what is not is named, what is unknown is said."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest

from erasure_sweep.sweep.check import Check, check
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.storage.shard_storage import Storage, open_storage, state_key
from erasure_sweep.workers.storage.states import encode_states

IDS = [f"{i:032x}" for i in range(5)]


@pytest.fixture(params=["folder", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}"


def put_states(storage: Storage, sweep: str = "") -> None:
    for shard in IDS:
        storage.put(sweep + state_key(shard), encode_states({"m": {"x": np.arange(3.0)}}, shard))


@pytest.mark.parametrize("sweep", ["", "1" * 32 + "/"])
def test_of_one_sweep_or_of_several(address: str, sweep: str) -> None:
    storage = open_storage(address)
    put_states(storage, sweep)
    storage.put(f"{sweep}driver.json", b"{}")
    storage.put(f"{sweep}mark", b"0" * 32)
    found = check(address)
    assert (found.findings, found.unchecked, dict(found.whole)) == ([], [], {"finished shard": 5})


def test_what_is_not_whole(address: str) -> None:
    storage = open_storage(address)
    put_states(storage)
    first, second, third = (state_key(shard) for shard in IDS[:3])
    storage.put(first, storage.get(second) or b"")
    storage.put(third, b"erasure-sweep state 99\n")
    storage.put("driver.json", b"{")
    storage.put("numerics.json", b"[]")
    storage.put("notes.txt", b"mine")
    found = Check()
    found.store(storage)
    assert sorted(found.findings) == sorted(
        [
            f"{storage.address}/driver.json is damaged",
            f"{storage.address}/numerics.json is damaged",
            f"{storage.address}/{first} is damaged, or another shard's",
        ]
    )
    assert found.unchecked == [
        "1 finished shard of another version, which this one leaves out",
        f"1 file in {storage.address} that no version of this puts there",
    ]
    assert found.whole["finished shard"] == 3


def test_what_was_left_half_written(tmp_path: Path) -> None:
    left = tmp_path / "ab" / f".{IDS[0]}.state.0123abcd.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert check(str(tmp_path)).findings == [f"{left} was left half-written by a run that was killed"]
    open_storage(tmp_path).sweep_up()
    with pytest.raises(UsageError, match="holds neither a run nor finished shards"):
        check(str(tmp_path))
