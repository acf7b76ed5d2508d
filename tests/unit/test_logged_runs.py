"""What reaches MLflow, when, and what does not: a store that fails, comes back, hangs, or refuses one run alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep import logged_runs
from sweep.config import SweepConfig
from sweep.files import RunFolder
from sweep.logged_runs import LoggedRuns
from sweep.progress import SilentReporter
from sweep.tracking import TrackingError
from workers.errors import DataError, SweepError

KEPT = "results on disk are kept"


class Store:
    """Stands for MLflow: notes what it was told, fails or hangs as it is set to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.tries: list[str] = []
        self.threads: set[int] = set()
        self.is_down = False
        self.fails: dict[str, Exception] = {}
        self.answers = threading.Event()
        self.answers.set()

    def hear(self, what: str) -> None:
        self.threads.add(threading.get_ident())
        self.tries.append(what)
        self.answers.wait(30)
        if self.is_down:
            raise TrackingError(f"MLflow is down: {KEPT}")
        if what in self.fails:
            raise self.fails[what]
        self.told.append(what)


class Tracker:
    def __init__(self, store: Store) -> None:
        self.store = store

    def check(self) -> None:
        self.store.threads.add(threading.get_ident())
        if self.store.is_down:
            raise SweepError("MLflow is down: start it")

    def start_sweep(self, *_: object) -> None:
        self.store.hear("start sweep")

    def start_model(self, name: str, *_: object) -> None:
        self.store.hear(f"start {name}")

    def tag_model(self, *_: object) -> None:
        pass

    def log_model(self, model_hash: str, *_: object) -> None:
        self.store.hear(f"log {model_hash}")

    def end_model(self, model_hash: str, status: str, reason: str | None = None) -> None:
        self.store.hear(f"end {model_hash} {status}" + (f" ({reason})" if reason else ""))

    def end_sweep(self, status: str) -> None:
        self.store.hear(f"end sweep {status}")

    def log_sweep_artifact(self, path: Path) -> None:
        self.store.hear(f"keep {path.name}")


class Said(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def config(tmp_path: Path) -> SweepConfig:
    return SweepConfig(models=["toy"], out=str(tmp_path / "out"))


@pytest.fixture
def folder(config: SweepConfig) -> RunFolder:
    folder = RunFolder(config)
    folder.out.mkdir()
    folder.comparison.write_text("side by side")
    return folder


@pytest.fixture
def runs(store: Store, said: Said, config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggedRuns]:
    monkeypatch.setattr(logged_runs, "Tracker", lambda *_: Tracker(store))
    runs = LoggedRuns(config, said)
    yield runs
    store.answers.set()
    runs.close()


@pytest.fixture
def log(runs: LoggedRuns, folder: RunFolder) -> Callable[[str], None]:
    """Log a finished model of this hash."""

    def log(model_hash: str) -> None:
        model = SimpleNamespace(hash=model_hash, corpus="c", corpus_fingerprint="f", corpus_description="d")
        runs.log_model(model, folder, {"folder": model_hash, "stages": ["scan"]})  # type: ignore[arg-type]

    return log


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


ALL_OF_TWO = ["log a", "end a FINISHED", "log b", "end b FINISHED", "keep compare.html", "end sweep FINISHED"]


class TestAStoreThatWorks:
    def test_everything_is_sent_in_order_from_one_other_thread(self, runs, log, store, said, folder):
        runs.check()
        log("a")
        log("b")
        runs.end_sweep(folder, "FINISHED")
        assert store.told == ALL_OF_TWO
        assert len(store.threads) == 1 and threading.get_ident() not in store.threads
        assert runs.problems == [] and said.lines == []

    def test_who_measures_does_not_wait(self, runs, log, store, folder):
        store.answers.clear()
        log("a")
        runs.end_model("b", "FAILED", "shard 3")
        wait_until(lambda: store.tries)
        assert (store.tries, store.told) == (["log a"], [])
        store.answers.set()
        runs.end_sweep(folder, "FAILED")
        assert store.told[-4:] == ["end a FINISHED", "end b FAILED (shard 3)", "keep compare.html", "end sweep FAILED"]

    def test_a_wait_at_the_end_is_said(self, runs, log, store, said, folder, monkeypatch):
        monkeypatch.setattr(logged_runs, "_SLOW_S", 0.01)
        store.answers.clear()
        log("a")
        threading.Timer(0.2, store.answers.set).start()
        runs.end_sweep(folder, "FINISHED")
        assert said.lines == ["nothing more to measure, waiting for MLflow to take what there is"]
        assert store.told[-1] == "end sweep FINISHED"

    def test_signals_are_left_to_the_driver(self, runs):
        blocked: list[set[int]] = []
        runs._sender.call(lambda: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        assert blocked[0] >= {signal.SIGINT, signal.SIGTERM, signal.SIGALRM}
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class TestAStoreThatFails:
    def test_before_anything_is_measured_is_an_error(self, runs, store):
        store.is_down = True
        with pytest.raises(SweepError, match="MLflow is down: start it"):
            runs.check()
        manifest = SimpleNamespace(values={"sweep_id": "1", "version": "1", "device_type": "cpu", "git_commit": ""})
        with pytest.raises(TrackingError, match=KEPT):
            runs.start(manifest, [])
        assert runs.problems == []

    def test_and_comes_back_is_no_problem(self, runs, log, store, said, folder, monkeypatch):
        monkeypatch.setattr(logged_runs, "RETRY_S", 0.02)
        store.is_down = True
        log("a")
        log("b")
        wait_until(lambda: store.tries.count("log a") >= 3)
        assert runs.problems == [f"MLflow is down: {KEPT}"]
        store.is_down = False
        wait_until(lambda: "end b FINISHED" in store.told)
        runs.end_sweep(folder, "FINISHED")
        assert store.told == ALL_OF_TWO
        assert runs.problems == []
        assert said.lines == [
            f"MLflow is down: {KEPT}, unless it takes them before this one ends",
            "MLflow answers again, after 0 s: everything that was measured until now is logged",
        ]

    def test_is_left_alone_for_a_while_and_tried_once_more_at_the_end(self, runs, log, store, folder):
        store.is_down = True
        log("a")
        wait_until(lambda: runs._sender._not_before)
        log("b")
        log("c")
        time.sleep(0.05)
        assert store.tries == ["log a"]
        runs.end_sweep(folder, "FINISHED")
        assert store.tries == ["log a", "log a"]
        assert store.told == [] and runs.problems == [f"MLflow is down: {KEPT}"]

    def test_and_is_back_at_the_end(self, runs, log, store, said, folder):
        store.is_down = True
        log("a")
        log("b")
        wait_until(lambda: runs._sender._not_before)
        store.is_down = False
        runs.end_sweep(folder, "FINISHED")
        assert store.told == ALL_OF_TWO and runs.problems == []
        assert len(said.lines) == 2 and said.lines[1].startswith("MLflow answers again")

    def test_when_nothing_follows_promises_nothing(self, runs, store, said, folder):
        store.is_down = True
        runs.end_sweep(folder, "FINISHED")
        assert runs.problems == [f"MLflow is down: {KEPT}"] and said.lines == []


class TestOneRunThatFails:
    def test_does_not_hold_up_the_others(self, runs, log, store, folder):
        store.fails["log a"] = TrackingError(f"MLflow failed: too large: {KEPT}")
        log("a")
        log("b")
        runs.end_sweep(folder, "FINISHED")
        assert store.told == ["log b", "end b FINISHED", "keep compare.html", "end sweep FAILED"]
        assert runs.problems == [f"MLflow failed: too large: {KEPT}"]

    def test_keeps_its_own_order(self, runs, log, store, folder):
        store.fails["log a"] = TrackingError("no")
        log("a")
        runs.end_model("a", "KILLED", "why")
        wait_until(lambda: runs._sender._not_before)
        store.fails.clear()
        runs.end_sweep(folder, "FINISHED")
        assert store.told[:3] == ["log a", "end a FINISHED", "end a KILLED (why)"]

    def test_for_damaged_results_is_said_and_not_tried_again(self, runs, log, store, folder):
        store.fails["log a"] = DataError("a/tables is not there")
        log("a")
        log("b")
        runs.end_sweep(folder, "FINISHED")
        assert store.tries.count("log a") == 1
        assert runs.problems == ["a/tables is not there"]
        assert store.told[-1] == "end sweep FAILED"

    def test_unexpectedly_is_raised_at_the_end(self, runs, log, store, folder):
        store.fails["log a"] = ZeroDivisionError("by nothing")
        log("a")
        log("b")
        with pytest.raises(ZeroDivisionError):
            runs.end_sweep(folder, "FINISHED")
        assert "end b FINISHED" in store.told
        runs.end_early([], folder, "FAILED", "by nothing")


class TestARunThatEndsEarly:
    def test_interrupted_notes_itself_before_anything_else(self, runs, log, store, folder):
        store.answers.clear()
        log("a")  # is being sent
        wait_until(lambda: store.tries)
        log("b")  # waits
        threading.Timer(0.1, store.answers.set).start()
        runs.end_early(["c", "d"], folder, "KILLED", "interrupted")
        assert store.told == [
            *("log a", "end a FINISHED", "end sweep KILLED"),
            *("end c KILLED (interrupted)", "end d KILLED (interrupted)", "end b KILLED (interrupted)"),
            "keep compare.html",
        ]

    def test_interrupted_does_not_wait_for_a_store_that_hangs(self, runs, log, store, folder, monkeypatch):
        monkeypatch.setitem(logged_runs.NOTING_S, "KILLED", 0.2)
        store.answers.clear()
        log("a")
        began = time.monotonic()
        runs.end_early(["c"], folder, "KILLED", "interrupted")
        assert 0.2 <= time.monotonic() - began < 10
        assert store.told == []

    def test_interrupted_while_it_opens_its_runs(self, runs, store, folder, monkeypatch):
        """The thread is still in there, and the end waits behind it."""
        monkeypatch.setitem(logged_runs.NOTING_S, "KILLED", 0.2)
        store.answers.clear()
        manifest = SimpleNamespace(values={"sweep_id": "1", "version": "1", "device_type": "cpu", "git_commit": ""})
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                runs.start(manifest, [])
        finally:
            signal.signal(signal.SIGALRM, before)
        runs.end_early([], folder, "KILLED", "interrupted")
        assert store.told == []

    def test_failed_logs_what_was_measured_first(self, runs, log, store, folder):
        store.answers.clear()
        log("a")
        log("b")
        threading.Timer(0.1, store.answers.set).start()
        runs.end_early(["c"], folder, "FAILED", "disk full")
        assert store.told == [
            *("log a", "end a FINISHED", "log b", "end b FINISHED", "end sweep FAILED"),
            *("end c FAILED (disk full)", "keep compare.html"),
        ]

    def test_sends_nothing_afterwards(self, runs, log, store):
        store.answers.clear()
        log("a")
        wait_until(lambda: store.tries)
        log("b")
        runs.close()
        store.answers.set()
        wait_until(lambda: not runs._sender._thread.is_alive())
        assert store.tries == ["log a", "end a FINISHED"]

    def test_says_nothing_afterwards(self, runs, log, store, said, monkeypatch):
        monkeypatch.setattr(logged_runs, "RETRY_S", 0.01)
        store.is_down = True
        store.answers.clear()
        log("a")
        wait_until(lambda: store.tries)
        runs.close()
        store.answers.set()
        wait_until(lambda: not runs._sender._thread.is_alive())
        assert said.lines == [] and store.tries == ["log a"]
