"""Cleaning up: what is named goes and nothing else, and nothing that a run works with."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.store.driver_process import this_driver
from erasure_sweep.sweep.store.lease import Lease
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.storage.shard_storage import Storage, open_storage
from tests.support.bad_input import Bench, Ran, assert_finished

LONG_AGO = 1e9
STATE = f"ab/{'ab' * 16}.state"
"""Where a finished shard stands."""
GONE = 2**22 + 1
"""No process has this number: Linux gives none beyond."""
MONTH = timedelta(days=30)
ALL = timedelta(0)


class TestWhatIsRefused:
    def test_nothing_named(self, cleaned):
        with pytest.raises(UsageError, match="nothing is named: give folders of runs"):
            cleaned(names=("demo",), older_than=ALL)

    def test_everything_by_accident(self, cleaned, tmp_path: Path):
        (tmp_path / "staging" / "models").mkdir(parents=True)
        (tmp_path / "staging" / "models" / "a.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match="--staged needs --name NAME or --older-than 30d"):
            cleaned(staging=tmp_path / "staging")
        with pytest.raises(UsageError, match="--store needs --name NAME or --older-than 30d"):
            cleaned(stores=(str(tmp_path),))
        assert (tmp_path / "staging" / "models" / "a.safetensors").exists()

    def test_a_folder_that_is_no_out_before_anything_is_removed(self, cleaned, tmp_path: Path):
        (tmp_path / "out" / ".store").mkdir(parents=True)
        (tmp_path / "home").mkdir()
        with pytest.raises(UsageError, match="home holds no run"):
            cleaned(tmp_path / "out", tmp_path / "home")
        assert (tmp_path / "out" / ".store").exists()

    def test_a_store_that_nothing_opens(self, cleaned):
        with pytest.raises(UsageError, match="gopherx"):
            cleaned(stores=("gopherx://a/b",), older_than=ALL)

    def test_on_the_command_line(self, bench: Bench, out: Path):
        for arguments in (["clean"], ["clean", "--staged"], ["clean", str(out)]):
            ran = bench.call(out, arguments)
            assert (ran.code, ran.stderr.count("\n")) == (2, 1)


class TestOut:
    def test_its_own_shards_go_and_its_tables_stay(self, cleaned, bench: Bench, out: Path, measured: Ran):
        size = sum(path.stat().st_size for path in bench.run(out).shards())
        assert_finished(bench.run(out), "good")
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and ".store" not in path.parts}
        assert any("would be removed" in line for line in cleaned(out, dry_run=True))
        assert (out / ".store").exists()
        ran = bench.call(out, ["clean", str(out)])
        assert ran.code == 0
        assert ran.stdout.splitlines()[-1] == f"1 thing removed, {size / 1e6:,.1f} MB"
        after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert after == before and not (out / ".store").exists()
        assert cleaned(out)[0] == f"{out} has no finished shards of its own"
        again = bench.run(out)
        assert_finished(again, "good")
        assert again.tables() == measured.tables()

    def test_a_running_one_keeps_them(self, cleaned, out: Path):
        (out / ".store" / "ab").mkdir(parents=True)
        (out / ".store" / STATE).write_bytes(b"x")
        run = Run.of(SweepConfig(models=["any"], out=str(out)))
        with run.folder.held_by(run.driver):
            assert f"in use by {run.driver.where}" in "\n".join(cleaned(out))
            (out / ".driver.json").unlink()  # of a version that wrote none, or on its way
            assert "in use: another run is working in" in "\n".join(cleaned(out))
        assert (out / ".store" / STATE).exists()
        cleaned(out)
        assert not (out / ".store").exists()

    def test_one_whose_shards_are_elsewhere(self, cleaned, bench: Bench, out: Path, tmp_path: Path):
        assert_finished(bench.run(out, store=tmp_path / "store"), "good")
        said = cleaned(out)
        assert said[0].startswith(f"{out} has no finished shards of its own: they are in {tmp_path}/store")
        assert len(list((tmp_path / "store").rglob("*.state"))) == 14

    def test_by_age(self, cleaned, out: Path):
        state = out / ".store" / STATE
        state.parent.mkdir(parents=True)
        state.write_bytes(b"x")
        assert cleaned(out, older_than=MONTH) == ["nothing to remove"]
        os.utime(state, (LONG_AGO, LONG_AGO))
        manifest = {"name": "trial", "config": {}, "models": []}
        (out / "manifest.json").write_text(json.dumps(manifest))
        assert cleaned(out, older_than=MONTH) == ["nothing to remove"]  # a run that measured nothing used it, too
        os.utime(out / "manifest.json", (LONG_AGO, LONG_AGO))
        assert cleaned(out, older_than=MONTH, names=("other",)) == ["nothing to remove", "nothing here is called other"]
        assert state.exists()
        cleaned(out, older_than=MONTH, names=("trial",))
        assert not state.exists()


@pytest.fixture(params=["folder", "memory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3").uri()
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}"


@pytest.fixture
def store(address: str) -> Storage:
    return open_storage(address)


SWEEPS = {"one": "1" * 32, "two": "2" * 32}


def add_sweep(address: str, name: str, out: Path, ended: bool = True, **changes: object) -> Lease:
    """A sweep with two shards in a store, and who worked on it last."""
    storage = open_storage(f"{address}/{SWEEPS[name]}")
    driver = this_driver(name, SWEEPS[name], out, os.getpid())._replace(**changes)
    lease = Lease(storage, driver, lambda line: None)
    lease.acquire()
    storage.put("mark", b"m")
    for shard in ("ab" * 16, "cd" * 16):
        storage.put(f"{shard[:2]}/{shard}.state", b"x" * 1000)
    if ended:
        lease.release()
    return lease


def kept(store: Storage) -> set[str]:
    return {entry.key for entry in store.keys("")}


def keys(name: str) -> set[str]:
    states = {f"{shard[:2]}/{shard}.state" for shard in ("ab" * 16, "cd" * 16)}
    return {f"{SWEEPS[name]}/{key}" for key in (*states, "mark", "driver.json")}


class TestStore:
    def test_by_name(self, cleaned, address: str, store: Storage, out: Path):
        add_sweep(address, "one", out)
        add_sweep(address, "two", out)
        others = {"notes.txt", f"{SWEEPS['one']}/notes.txt", "ab/" + "ab" * 16 + ".state", "other/driver.json"}
        for key in others:
            store.put(key, b"somebody else's")
        assert kept(store) == keys("one") | keys("two") | others
        said = cleaned(stores=(address,), names=("one", "three"), dry_run=True)
        assert "would be removed" in said[1] and said[-1] == "nothing here is called three"
        assert kept(store) == keys("one") | keys("two") | others
        said = cleaned(stores=(address,), names=("one",))
        assert said[1].startswith(f"one in {store.address}/{SWEEPS['one']} ") and said[1].endswith(" removed")
        assert kept(store) == keys("two") | others
        assert not (Path(store.address) / SWEEPS["one"] / "ab").exists()

    def test_by_age(self, cleaned, address: str, store: Storage, out: Path):
        add_sweep(address, "one", out)
        assert cleaned(stores=(address,), older_than=MONTH) == ["nothing to remove"]
        assert kept(store) == keys("one")
        cleaned(stores=(address,), older_than=ALL)
        assert kept(store) == set()

    def test_one_that_a_run_works_on(self, cleaned, address: str, store: Storage, out: Path):
        add_sweep(address, "one", out, ended=False)
        add_sweep(address, "two", out, ended=False, host="far")
        said = cleaned(stores=(address,), older_than=ALL)
        assert f"in use by {os.uname().nodename}, process {os.getpid()}" in said[1]
        assert f"in use by far, process {os.getpid()}" in said[2]
        assert said[-1] == "0 things removed, 0.0 MB"
        assert kept(store) == keys("one") | keys("two")

    def test_one_whose_process_is_gone(self, cleaned, address: str, store: Storage, out: Path):
        add_sweep(address, "one", out, ended=False, pid=GONE)
        cleaned(stores=(address,), names=("one",))
        assert kept(store) == set()

    def test_a_driver_that_lost_it_meanwhile_finds_out(self, cleaned, address: str, store: Storage, out: Path):
        """A run that began while it was removed: the lease is taken first."""
        lease = add_sweep(address, "one", out, ended=False, pid=GONE)
        storage = open_storage(f"{address}/{SWEEPS['one']}")
        deleted: list[str] = []

        def delete(self: Storage, given: Iterable[str]) -> None:
            doomed = list(given)
            if not deleted and any(key.endswith(".state") for key in doomed):
                lease.beat()
                with pytest.raises(SweepError, match="has taken over"):
                    lease.check()
                deleted.extend(doomed)
            original(self, doomed)

        original = type(storage).delete
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(storage), "delete", delete)
            cleaned(stores=(address,), names=("one",))
        assert deleted and kept(store) == set()
        lease.beat()
        lease.release()
        assert kept(store) == set()

    def test_a_run_that_begins_while_others_are_removed_keeps_it(
        self, cleaned, address: str, store: Storage, out: Path
    ):
        add_sweep(address, "one", out)
        lease = add_sweep(address, "two", out)
        storage = open_storage(f"{address}/{SWEEPS['one']}")

        def delete(self: Storage, given: Iterable[str]) -> None:
            doomed = list(given)
            original(self, doomed)
            if not any(key.endswith(".state") for key in doomed):
                return  # what tells the time
            if store.get(f"{SWEEPS['two']}/driver.json") and not began:
                began.append(lease)
                lease.acquire()

        began: list[Lease] = []
        original = type(storage).delete
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(storage), "delete", delete)
            said = cleaned(stores=(address,), older_than=ALL)
        assert "removed" in said[1] and "in use" in said[2]
        assert began and kept(store) == keys("two")
        lease.beat()
        lease.check()

    def test_on_the_command_line(self, bench: Bench, address: str, store: Storage, out: Path):
        add_sweep(address, "one", out)
        ran = bench.call(out, ["clean", "--store", address, "--older-than", "0d"])
        assert (ran.code, ran.stderr) == (0, "")
        assert kept(store) == set()


class TestStoreThatIsAFolder:
    def test_age_is_that_of_the_newest_object(self, cleaned, tmp_path: Path, out: Path):
        address = str(tmp_path / "store")
        add_sweep(address, "one", out)
        files = sorted(path for path in Path(address).rglob("*") if path.is_file())
        for path in files[:-1]:
            os.utime(path, (LONG_AGO, LONG_AGO))
        assert cleaned(stores=(address,), older_than=MONTH) == ["nothing to remove"]
        os.utime(files[-1], (LONG_AGO, LONG_AGO))
        said = cleaned(stores=(address,), older_than=MONTH)
        assert "2001-09-" in said[1]
        assert not (Path(address) / SWEEPS["one"]).exists()

    def test_a_lease_of_another_machine_counts_while_it_is_renewed(self, cleaned, tmp_path: Path, out: Path):
        address = str(tmp_path / "store")
        add_sweep(address, "one", out, ended=False, host="far")
        record = Path(address) / SWEEPS["one"] / "driver.json"
        now = record.stat().st_mtime
        for age, left in ((540, True), (660, False)):
            os.utime(record, (now - age, now - age))
            cleaned(stores=(address,), names=("one",))
            assert record.exists() is left

    def test_one_that_cannot_be_removed(self, cleaned, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
        address = str(tmp_path / "store")
        add_sweep(address, "one", out)
        add_sweep(address, "two", out)
        blocked = Path(address) / SWEEPS["one"] / "ab" / f"{'ab' * 16}.state"
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path == blocked:
                raise PermissionError(1, "Operation not permitted", str(path))
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(SweepError, match=r"1 of 2 could not be removed, the first: .*Operation not permitted"):
            cleaned(stores=(address,), older_than=ALL)
        assert blocked.exists() and not (Path(address) / SWEEPS["two"]).exists()
        assert json.loads((Path(address) / SWEEPS["one"] / "driver.json").read_text())["ended"] is True
        monkeypatch.undo()
        cleaned(stores=(address,), names=("one",))
        assert not blocked.exists()

    def test_one_that_is_not_there(self, cleaned, tmp_path: Path):
        assert cleaned(stores=(str(tmp_path / "none"),), older_than=ALL) == ["nothing to remove"]
        assert not (tmp_path / "none").exists()
