"""Who works on a sweep: one driver at a time holds the lease of a store, and who is gone does not keep it."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from erasure_sweep.sweep.store.driver_process import DriverProcess, InUseError, this_driver
from erasure_sweep.sweep.store.lease import Heartbeat, Lease, read_lease
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.shard_storage import Storage, StorageError, open_storage

GONE = 2**22 + 1
"""No process has this number: Linux gives none beyond."""


class Clock:
    """Time that passes only while somebody sleeps, and what happens meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: dict[float, Callable[[], None]] = {}
        """What happens so many seconds after the beginning."""

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        for after in sorted(self.meanwhile):
            if before < 1000 + after <= self.now:
                self.meanwhile[after]()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(params=["memory", "folder"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}"


@pytest.fixture
def storage(address: str) -> Storage:
    return open_storage(address)


@pytest.fixture
def lease(address: str, clock: Clock, said: list[str]) -> Callable[[DriverProcess], Lease]:
    """Makes leases that each see the same store by a storage of their own."""
    return lambda driver: Lease(open_storage(address), driver, said.append, clock.time, clock.sleep)


def here(tmp_path: Path, pid: int = 0) -> DriverProcess:
    """A driver on this machine."""
    return this_driver("trial", "ab" * 16, tmp_path / "out", pid or os.getpid())


def elsewhere(tmp_path: Path, host: str = "far") -> DriverProcess:
    """A driver on another machine, where this process' number means another one."""
    return here(tmp_path)._replace(host=host, boot_id="another boot")


def written(storage: Storage) -> dict[str, object]:
    return dict(json.loads(storage.get("driver.json") or b"{}"))


class TestLease:
    def test_one_after_the_other(self, lease, storage, clock, said, tmp_path: Path):
        first, second = here(tmp_path), elsewhere(tmp_path)
        one = lease(first)
        one.acquire()
        found = written(storage)
        assert {key: found[key] for key in first._asdict()} == first._asdict()
        assert found["ended"] is False
        one.release()
        assert written(storage)["ended"] is True
        lease(second).acquire()
        assert (written(storage)["holder"], written(storage)["ended"]) == (second.holder, False)
        assert clock.now == 1000 and said == []

    def test_a_second_one_is_refused_as_soon_as_the_first_beats(self, lease, storage, clock, said, tmp_path: Path):
        first = elsewhere(tmp_path)
        one = lease(first)
        one.acquire()
        clock.meanwhile[10] = one.beat
        with pytest.raises(InUseError) as refused:
            lease(here(tmp_path)).acquire()
        assert str(refused.value) == (
            f"another run (far, process {os.getpid()}, {tmp_path}/out) is working on this sweep in {storage.address}: "
            "wait for it, stop it, or choose another --store"
        )
        assert clock.now == 1010
        assert len(said) == 1 and "waiting to see whether another run (far" in said[0]
        one.check()
        assert written(storage)["holder"] == first.holder

    def test_one_that_no_longer_beats_is_taken_over(self, lease, storage, clock, said, tmp_path: Path):
        lost = lease(elsewhere(tmp_path))
        lost.acquire()
        second = here(tmp_path)
        lease(second).acquire()
        assert clock.now == 1030
        assert written(storage)["holder"] == second.holder
        assert len(said) == 2

    def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(
        self, lease, storage, clock, said, tmp_path: Path
    ):
        gone = here(tmp_path)._replace(pid=GONE)
        lease(gone).acquire()
        second = here(tmp_path)
        lease(second).acquire()
        assert clock.now == 1000 and said == []
        assert written(storage)["holder"] == second.holder

    @pytest.mark.parametrize("how", ["ends", "goes away"])
    def test_one_that_ends_while_it_is_watched(self, lease, storage, clock, tmp_path: Path, how: str):
        one = lease(elsewhere(tmp_path))
        one.acquire()
        clock.meanwhile[3] = one.release if how == "ends" else lambda: storage.delete(["driver.json"])
        second = here(tmp_path)
        lease(second).acquire()
        assert clock.now == 1003
        assert written(storage)["holder"] == second.holder

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"holder": 1}', b"\xff"])
    def test_a_damaged_one_is_nobodys(self, lease, storage, tmp_path: Path, content: bytes):
        storage.put("driver.json", content)
        assert read_lease(storage) is None
        driver = here(tmp_path)
        lease(driver).acquire()
        assert written(storage)["holder"] == driver.holder

    def test_who_was_taken_over_ends_and_leaves_the_other_alone(self, lease, storage, clock, tmp_path: Path):
        """A machine that slept: it comes back when another one works."""
        slept, other = here(tmp_path), elsewhere(tmp_path, "near")
        one = lease(slept)
        one.acquire()
        storage.put("driver.json", json.dumps(written(storage) | {"boot_id": "unknown"}).encode())
        two = lease(other)
        two.acquire()
        one.check()
        one.beat()
        with pytest.raises(
            InUseError, match=r"another run \(near, .*\) has taken over this sweep in .*: it goes on there"
        ):
            one.check()
        one.beat()
        one.release()
        two.beat()
        two.check()
        assert (written(storage)["holder"], written(storage)["ended"]) == (other.holder, False)

    def test_of_two_that_take_over_at_once_one_goes_on(self, address, storage, clock, said, tmp_path: Path):
        """The second has looked before the first wrote, so both write."""
        lost = Lease(storage, elsewhere(tmp_path), said.append, clock.time, clock.sleep)
        lost.acquire()
        lost.release()
        drivers = [here(tmp_path), elsewhere(tmp_path, "near")]
        leases: list[Lease] = []

        class Late:
            """The storage of one who writes late."""

            def __init__(self) -> None:
                self.inner = open_storage(address)
                self.address = self.inner.address

            def put(self, key: str, content: bytes) -> None:
                if not leases:
                    leases.append(Lease(open_storage(address), drivers[0], said.append, clock.time, clock.sleep))
                    leases[0].acquire()
                self.inner.put(key, content)

            def __getattr__(self, name: str) -> object:
                return getattr(self.inner, name)

        late = Lease(Late(), drivers[1], said.append, clock.time, clock.sleep)  # type: ignore[arg-type]
        late.acquire()
        for each in (leases[0], late):
            each.beat()
        late.check()
        with pytest.raises(InUseError, match="near"):
            leases[0].check()
        assert written(storage)["holder"] == drivers[1].holder


class Failing:
    """A storage that does not answer for a while."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self.address, self.fails = storage, storage.address, False

    def __getattr__(self, name: str) -> object:
        if self.fails:
            raise StorageError("the store does not answer: check it")
        return getattr(self._storage, name)


class TestStoreThatFails:
    def test_beats_are_tried_again_and_long_silence_is_an_error(self, storage, clock, said, tmp_path: Path):
        failing = Failing(storage)
        one = Lease(failing, here(tmp_path), said.append, clock.time, clock.sleep)  # type: ignore[arg-type]
        one.acquire()
        failing.fails = True
        for _ in range(9):
            clock.now += 10
            one.beat()
            one.check()
        failing.fails = False
        one.beat()
        failing.fails = True
        for _ in range(9):
            clock.now += 10
            one.beat()
            one.check()
        clock.now += 10
        one.beat()
        with pytest.raises(SweepError, match=r"for 100 s it could not be noted .* the store does not answer: check it"):
            one.check()
        one.release()  # says nothing: why the run ends is said already
        assert written(storage)["ended"] is False

    def test_at_the_beginning_it_is_an_error(self, storage, clock, said, tmp_path: Path):
        failing = Failing(storage)
        failing.fails = True
        one = Lease(failing, here(tmp_path), said.append, clock.time, clock.sleep)  # type: ignore[arg-type]
        with pytest.raises(StorageError):
            one.acquire()
        one.beat()
        one.check()
        one.release()


class TestHeart:
    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("erasure_sweep.sweep.store.lease.FIRST_BEAT_S", 0.01)
        monkeypatch.setattr("erasure_sweep.sweep.store.lease.BEAT_S", 0.01)

    def test_it_beats_until_it_ends(self):
        beats: list[str] = []
        enough = threading.Event()

        def beat() -> None:
            beats.append("beat")
            if len(beats) == 3:
                enough.set()
            if len(beats) == 1:
                raise RuntimeError("one that fails")

        heart = Heartbeat(beat, lambda: beats.append("end"))
        heart.start()
        enough.wait()
        heart.close()
        assert beats.count("end") == 1 and beats[-1] == "end"
        n = len(beats)
        time.sleep(0.05)
        assert len(beats) == n

    def test_one_that_was_not_started_ends_too(self):
        ends: list[str] = []
        Heartbeat(lambda: None, lambda: ends.append("end")).close()
        assert ends == ["end"]

    def test_one_that_hangs_keeps_nobody(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("erasure_sweep.sweep.store.lease.CLOSE_S", 0.1)
        hangs, released = threading.Event(), threading.Event()

        def beat() -> None:
            hangs.set()
            released.wait()

        heart = Heartbeat(beat, lambda: None)
        heart.start()
        hangs.wait()
        heart.close()  # though the beat goes on hanging
        released.set()
