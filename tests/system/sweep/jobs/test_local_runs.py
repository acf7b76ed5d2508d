"""Runs as others see them: how far one is, who works on it, stopping it, and two that want the same sweep."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import DriverProcess, this_driver
from tests.support.bad_input import Bench, Ran, assert_finished, assert_refused, environment
from tests.support.waiting import wait_until

SHARDS = 100
SLOWLY = """
import time
from erasure_sweep.workers.worker import ShardWorker
measure = ShardWorker.measure
ShardWorker.measure = lambda *given: time.sleep(0.5) or measure(*given)
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, background: HelperProcess) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("runs"), background=background)
    np.save(bench.root / "long.npy", np.random.default_rng(2).integers(0, 97, (SHARDS * 8, 16)))
    return bench


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "out"


@contextmanager
def working(bench: Bench, out: Path, **changes: object) -> Iterator[subprocess.Popen[str]]:
    """A run that takes long, in a process of its own, once it has measured three shards."""
    long = {"corpus": bench.root / "long.npy", "prompts": SHARDS * 8, "stage": "scan"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    python, option, script, *arguments = bench.command(out, **long | changes)
    command = [python, option, SLOWLY + script, *arguments]
    process = subprocess.Popen(command, text=True, env=environment(), **pipes)
    store = Path(str(changes.get("store", out)))
    try:
        wait_until(lambda: len(list(store.rglob("*.state"))) >= 3, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def said(bench: Bench, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and all that a command prints."""
    ran = bench.call(bench.root / "none" / "out", list(map(str, arguments)))
    return ran.code, ran.stdout + ran.stderr


def forge(out: Path, driver: DriverProcess) -> None:
    """Say that this driver works in OUT."""
    out.mkdir(parents=True, exist_ok=True)
    (out / ".driver.json").write_text(json.dumps(driver._asdict()))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is no driver and does not end when it is told to; OUT's lock is open in it."""
    lock = tmp_path / "runs" / "out" / ".lock"
    lock.parent.mkdir(parents=True)
    script = """if True:
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lock = open(input(), "w")
        print(1, flush=True)
        input()
    """
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    print(lock, file=process.stdin, flush=True)
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


class TestStatusAndStop:
    def test_while_it_works_and_after_it_was_stopped(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        with working(bench, out) as process:
            code, text = said(bench, "status", out)
            assert code == 0
            head, model, tracking = text.splitlines()
            assert head.startswith(f"good-long in {out}: ") and head.endswith(
                f", process {process.pid} is working on it"
            )
            assert re.fullmatch(rf"  good +MEASURING +scan: \d+ of {SHARDS} shards", model)
            assert f"--tracking-uri {bench.tracking_uri}" in tracking

            code, text = said(bench, "status")
            assert re.fullmatch(rf"runs/out  \S+, process {process.pid}  1 MEASURING\n", text)

            code, text = said(bench, "stop", out)
            assert code == 0, text
            assert f"process {process.pid}) has ended: 1 KILLED; " in text
            assert process.wait() == 130
        done = len(list(out.rglob("*.state")))
        code, text = said(bench, "status", out)
        head, model, _ = text.splitlines()
        assert head == f"good-long in {out}: nobody is working on it"
        assert re.fullmatch(rf"  good +KILLED +scan: {done} of {SHARDS} shards", model)
        assert said(bench, "stop", out) == (0, f"no run is working in {out}\n")
        assert not (out / ".driver.json").exists()

    @pytest.mark.nightly
    def test_one_that_was_killed_hard(self, bench: Bench, out: Path):
        with working(bench, out) as process:
            process.kill()
            process.wait()
        assert said(bench, "stop", out) == (0, f"no run is working in {out}\n")
        _, text = said(bench, "status", out)
        head, model, _ = text.splitlines()
        assert "nobody is working on it; " in head and f"process {process.pid} ended without noting that" in head
        assert re.match(r"  good +INTERRUPTED +scan: ", model)

    def test_finished_and_failed_ones(self, bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch):
        from erasure_sweep.workers.worker import ShardWorker

        assert_finished(bench.run(out), "good")
        assert re.search(r"  good  FINISHED  scan, verify\n", said(bench, "status", out)[1])
        with monkeypatch.context() as patch:
            patch.setattr(ShardWorker, "measure", lambda *given: 1 / 0)
            failed = bench.run(out, "--fresh")
        _, text = said(bench, "status", out)
        assert re.search(
            r"  good  FAILED +scan: 0 of 2 shards \(behind it scan, verify\)\n  good: 2 of 2 shards of scan failed 3 times",
            text,
        )
        assert failed.line.removeprefix("erasure-sweep: ") in text

    def test_folders_that_hold_none(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        assert said(bench, "status") == (0, "no runs below runs/\n")
        for command in ("status", "stop"):
            code, text = said(bench, command, tmp_path / "nothing")
            assert (code, text.count("\n")) == (2, 1) and "holds no run" in text

    def test_a_damaged_manifest(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs" / "bad").mkdir(parents=True)
        (tmp_path / "runs" / "bad" / "manifest.json").write_text("{")
        code, text = said(bench, "status", "runs/bad")
        assert (code, text.count("\n")) == (2, 1) and "is damaged" in text
        code, text = said(bench, "status")
        assert code == 0 and "is damaged" in text

    def test_one_that_is_preparing(self, bench: Bench, out: Path):
        with RunFolder(out).held_by(this_driver("demo", "", out, os.getpid())):
            assert said(bench, "status", out)[1].endswith(f"preparing ({os.uname().nodename}, process {os.getpid()})\n")


class TestWhoIsStopped:
    def test_another_process_of_the_same_number_is_left_alone(self, bench: Bench, out: Path, other):
        forge(out, this_driver("demo", "", out, other.pid)._replace(pid_started="1"))
        assert said(bench, "stop", out) == (0, f"no run is working in {out}\n")
        other.communicate("\n")
        assert other.returncode == 0

    def test_one_that_does_not_end(self, bench: Bench, out: Path, other, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("erasure_sweep.sweep.jobs.local_runs.STOP_S", 0.2)
        forge(out, this_driver("demo", "", out, other.pid))
        code, text = said(bench, "stop", out)
        assert (code, text.count("\n")) == (1, 1)
        assert f"process {other.pid} was told to stop and still works" in text and f"kill -9 {other.pid}" in text

    def test_one_on_another_machine(self, bench: Bench, out: Path, other):
        forge(out, this_driver("demo", "", out, other.pid)._replace(host="far"))
        assert said(bench, "stop", out) == (0, f"no run is working in {out}\n")
        with FileLock(out / ".lock"):
            code, text = said(bench, "stop", out)
            assert (code, text.count("\n")) == (1, 1)
            assert f"is working on far (process {other.pid}): stop it there" in text
            assert f"preparing (far, process {other.pid})" in said(bench, "status", out)[1]
        assert other.poll() is None


class TestTwoRuns:
    @pytest.mark.nightly
    def test_of_one_sweep_in_one_store(self, bench: Bench, out: Path, tmp_path: Path):
        """The second is refused while the first lives, and goes on at once where that was killed."""
        store = tmp_path / "store"
        second = tmp_path / "second" / "out"
        with working(bench, out, store=store) as process:
            refused = bench.run(second, corpus=bench.root / "long.npy", prompts=SHARDS * 8, stage="scan", store=store)
            assert process.poll() is None
            assert_refused(refused, 1, f"process {process.pid}, {out}) is working on this sweep in {store}/", "--store")
            process.send_signal(signal.SIGKILL)
            process.wait()
        (record,) = store.glob("*/driver.json")
        assert json.loads(record.read_text())["ended"] is False
        done = len(list(store.rglob("*.state")))
        ran = bench.run(second, corpus=bench.root / "long.npy", prompts=SHARDS * 8, stage="scan", store=store)
        assert ran.code == 0, ran.stderr
        assert f"good: {SHARDS} shards of scan, {done} already measured" in ran.stdout
        assert "waiting to see" not in ran.stdout
        left = json.loads(record.read_text())
        assert left["ended"] is True and left["out"] == str(second)

    def test_who_was_taken_over_ends(self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from erasure_sweep.sweep.store.shards import ShardStore

        for name in ("FIRST_BEAT_S", "BEAT_S"):
            monkeypatch.setattr(f"erasure_sweep.sweep.store.lease.{name}", 0.02)
        taken = json.dumps({**this_driver("demo", "", out, 7)._replace(host="far")._asdict(), "beat": 1, "at": ""})
        taken = taken[:-1] + ', "ended": false}'
        put = ShardStore.put

        def put_late(store: ShardStore, shard: str, state: bytes | None) -> None:
            put(store, shard, state)
            (record,) = (tmp_path / "store").glob("*/driver.json")
            for _ in range(20):  # a beat that had read the lease before overwrites it: then the other would end
                record.write_text(taken)
                time.sleep(0.03)

        monkeypatch.setattr(ShardStore, "put", put_late)
        ran = bench.run(out, store=tmp_path / "store")
        assert ran.code == 1 and len(ran.stderr.splitlines()) == 1
        assert "another run (far, process 7, " in ran.line and "has taken over this sweep in" in ran.line
        assert ran.states == {"good": "FAILED"}
        assert set(ran.runs.values()) == {"RUNNING"}, "the runs in MLflow are the other's by now"
        (record,) = (tmp_path / "store").glob("*/driver.json")
        assert record.read_text() == taken

    def test_in_one_folder(self, bench: Bench, out: Path):
        with working(bench, out) as process:
            ran: Ran = bench.run(out)
        assert ran.code == 1
        assert re.fullmatch(
            rf"erasure-sweep: another run \(\S+, process {process.pid}\) is working in {out}: wait for it, stop it "
            rf"\(erasure-sweep stop {out}\) or choose another --out",
            ran.line,
        )


def test_staged_files_are_noted_while_they_are_used(
    bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Which they are, once it is known; and when they were used last, however old they are."""
    from erasure_sweep.sweep.store.shards import ShardStore

    staging, seen = tmp_path / "staging", []
    assert_finished(bench.run(out, staging=staging), "good")
    staged = [path for path in staging.rglob("*") if path.suffix in (".safetensors", ".npy", ".json")]
    files = [path for path in staged if path.parent.name != "means"]  # these are in use while their model is
    assert (len(files), len(staged)) == (3, 5)
    for path in files:
        os.utime(path, (1e9, 1e9))
    put = ShardStore.put

    def put_looking(store: ShardStore, shard: str, state: bytes | None) -> None:
        seen.extend(json.loads(path.read_text()) for path in (staging / "in-use").iterdir())
        put(store, shard, state)

    monkeypatch.setattr(ShardStore, "put", put_looking)
    assert_finished(bench.run(out, "--fresh", staging=staging), "good")
    assert {tuple(sorted(record["files"])) for record in seen} == {
        tuple(sorted(path.relative_to(staging).as_posix() for path in files))
    }
    assert {record["pid"] for record in seen} == {os.getpid()}
    assert all(path.stat().st_mtime > time.time() - 3600 for path in files)
    assert list((staging / "in-use").iterdir()) == []
