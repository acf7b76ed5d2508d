"""What reaches MLflow, when, and what does not: a store that fails, comes back, hangs, or refuses one run alone."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.manifest_writer import ManifestKeeper
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.terminal.progress import SilentReporter
from erasure_sweep.sweep.tracking import logged_runs, sender
from erasure_sweep.sweep.tracking.logged_runs import LoggedRuns
from erasure_sweep.sweep.tracking.tracker import ModelResults, TrackingError
from erasure_sweep.workers.errors import DataError, SweepError
from erasure_sweep.workers.manifest import Manifest, ManifestConfig, ManifestEntry
from erasure_sweep.workers.tables import SCHEMA_VERSION
from tests.support.fakes.tables import write_frame
from tests.support.waiting import wait_until

KEPT = "results on disk are kept"


class Store:
    """Stands for MLflow: notes what it was told, fails or hangs as it is set to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.logged: dict[str, ModelResults] = {}
        self.tries: list[str] = []
        self.threads: set[int] = set()
        self.is_down = False
        self.fails: dict[str, Exception] = {}
        self.answers = threading.Event()
        self.answers.set()

    def hear(self, what: str) -> None:
        self.threads.add(threading.get_ident())
        self.tries.append(what)
        self.answers.wait()
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

    def run_url(self, model_hash: str | None) -> str:
        return f"http://mlflow/{model_hash or 'sweep'}"

    def describe_sweep(self, manifest: Manifest) -> None:
        self.store.hear(f"describe {manifest.sweep_id}")

    def log_machine(self, sample: dict[str, float]) -> None:
        self.store.hear(f"machine {sample}")

    def log_model(self, model_hash: str, results: ModelResults) -> None:
        self.store.logged[model_hash] = results
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
    folder = Run.of(config).folder
    folder.out.mkdir()
    folder.comparison.write_text("side by side")
    return folder


@pytest.fixture
def runs(store: Store, said: Said, config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggedRuns]:
    monkeypatch.setattr(logged_runs, "Tracker", lambda *_: Tracker(store))
    runs = LoggedRuns(Run.of(config), said)
    yield runs
    store.answers.set()
    runs.close()


@pytest.fixture
def log(runs: LoggedRuns) -> Callable[[str], None]:
    """Log a finished model of this hash."""

    def log(model_hash: str) -> None:
        corpus = {"corpus": "c", "corpus_fingerprint": "f", "corpus_description": "d", "n_prompts": 4, "seq_len": 8}
        corpus |= {"n_tokens": 30}
        model = SimpleNamespace(hash=model_hash, **corpus)
        entry = ManifestEntry(name=model_hash, folder=model_hash, state="FINISHED", stages=("scan",))
        runs.log_model(model, entry)  # type: ignore[arg-type]

    return log


ALL_OF_TWO = ["log a", "end a FINISHED", "log b", "end b FINISHED", "keep compare.html", "end sweep FINISHED"]


class TestAStoreThatWorks:
    def test_everything_is_sent_in_order_from_one_other_thread(self, runs, log, store, said, folder):
        runs.check()
        log("a")
        log("b")
        runs.end_sweep("FINISHED")
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
        runs.end_sweep("FAILED")
        assert store.told[-4:] == ["end a FINISHED", "end b FAILED (shard 3)", "keep compare.html", "end sweep FAILED"]

    def test_a_wait_at_the_end_is_said(self, runs, log, store, said, folder, monkeypatch):
        monkeypatch.setattr(logged_runs, "_SLOW_S", 0.01)
        store.answers.clear()
        log("a")
        threading.Timer(0.2, store.answers.set).start()
        runs.end_sweep("FINISHED")
        assert said.lines == ["nothing more to measure, waiting for MLflow to take what there is"]
        assert store.told[-1] == "end sweep FINISHED"

    def test_signals_are_left_to_the_driver(self, runs):
        blocked: list[set[int]] = []
        runs._sender.call(lambda: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        assert blocked[0] >= {signal.SIGINT, signal.SIGTERM, signal.SIGALRM}
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class TestAStoreThatFails:
    def test_before_anything_is_measured_is_an_error(self, runs, store, noted):
        store.is_down = True
        with pytest.raises(SweepError, match="MLflow is down: start it"):
            runs.check()
        with pytest.raises(TrackingError, match=KEPT):
            runs.start(noted, [])
        assert runs.problems == []

    def test_and_comes_back_is_no_problem(self, runs, log, store, said, folder, monkeypatch):
        monkeypatch.setattr(sender, "RETRY_S", 0.02)
        store.is_down = True
        log("a")
        log("b")
        wait_until(lambda: store.tries.count("log a") >= 3)
        assert runs.problems == [f"MLflow is down: {KEPT}"]
        store.is_down = False
        wait_until(lambda: "end b FINISHED" in store.told)
        runs.end_sweep("FINISHED")
        assert store.told == ALL_OF_TWO
        assert runs.problems == []
        down, again = said.lines
        assert down == f"MLflow is down: {KEPT}, unless it takes them before this one ends"
        assert re.fullmatch(
            r"MLflow answers again, after \d+ s: everything that was measured until now is logged", again
        )

    def test_is_left_alone_for_a_while_and_tried_once_more_at_the_end(self, runs, log, store, folder):
        store.is_down = True
        log("a")
        wait_until(lambda: runs._sender._not_before)
        log("b")
        log("c")
        time.sleep(0.05)
        assert store.tries == ["log a"]
        runs.end_sweep("FINISHED")
        assert store.tries == ["log a", "log a"]
        assert store.told == [] and runs.problems == [f"MLflow is down: {KEPT}"]

    def test_and_is_back_at_the_end(self, runs, log, store, said, folder):
        store.is_down = True
        log("a")
        log("b")
        wait_until(lambda: runs._sender._not_before)
        store.is_down = False
        runs.end_sweep("FINISHED")
        assert store.told == ALL_OF_TWO and runs.problems == []
        assert len(said.lines) == 2 and said.lines[1].startswith("MLflow answers again")

    def test_when_nothing_follows_promises_nothing(self, runs, store, said, folder):
        store.is_down = True
        runs.end_sweep("FINISHED")
        assert runs.problems == [f"MLflow is down: {KEPT}"] and said.lines == []


class TestOneRunThatFails:
    def test_does_not_hold_up_the_others(self, runs, log, store, folder):
        store.fails["log a"] = TrackingError(f"MLflow failed: too large: {KEPT}")
        log("a")
        log("b")
        runs.end_sweep("FINISHED")
        assert store.told == ["log b", "end b FINISHED", "keep compare.html", "end sweep FAILED"]
        assert runs.problems == [f"MLflow failed: too large: {KEPT}"]

    def test_keeps_its_own_order(self, runs, log, store, folder):
        store.fails["log a"] = TrackingError("no")
        log("a")
        runs.end_model("a", "KILLED", "why")
        wait_until(lambda: runs._sender._not_before)
        store.fails.clear()
        runs.end_sweep("FINISHED")
        assert store.told[:3] == ["log a", "end a FINISHED", "end a KILLED (why)"]

    def test_for_damaged_results_is_said_and_not_tried_again(self, runs, log, store, folder):
        store.fails["log a"] = DataError("a/tables is not there")
        log("a")
        log("b")
        runs.end_sweep("FINISHED")
        assert store.tries.count("log a") == 1
        assert runs.problems == ["a/tables is not there"]
        assert store.told[-1] == "end sweep FAILED"

    def test_unexpectedly_is_raised_at_the_end(self, runs, log, store, folder):
        store.fails["log a"] = ZeroDivisionError("by nothing")
        log("a")
        log("b")
        with pytest.raises(ZeroDivisionError):
            runs.end_sweep("FINISHED")
        assert "end b FINISHED" in store.told
        runs.end_early([], "FAILED", "by nothing")


class TestARunThatEndsEarly:
    def test_interrupted_notes_itself_before_anything_else(self, runs, log, store, folder):
        store.answers.clear()
        log("a")  # is being sent
        wait_until(lambda: store.tries)
        log("b")  # waits
        threading.Timer(0.1, store.answers.set).start()
        runs.end_early(["c", "d"], "KILLED", "interrupted")
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
        runs.end_early(["c"], "KILLED", "interrupted")  # though it goes on hanging
        assert time.monotonic() - began >= 0.2
        assert store.told == []

    def test_interrupted_while_it_opens_its_runs(self, runs, store, noted, folder, monkeypatch):
        """The thread is still in there, and the end waits behind it."""
        monkeypatch.setitem(logged_runs.NOTING_S, "KILLED", 0.2)
        store.answers.clear()
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                runs.start(noted, [])
        finally:
            signal.signal(signal.SIGALRM, before)
        runs.end_early([], "KILLED", "interrupted")
        assert store.told == []

    def test_failed_logs_what_was_measured_first(self, runs, log, store, folder):
        store.answers.clear()
        log("a")
        log("b")
        threading.Timer(0.1, store.answers.set).start()
        runs.end_early(["c"], "FAILED", "disk full")
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
        monkeypatch.setattr(sender, "RETRY_S", 0.01)
        store.is_down = True
        store.answers.clear()
        log("a")
        wait_until(lambda: store.tries)
        runs.close()
        store.answers.set()
        wait_until(lambda: not runs._sender._thread.is_alive())
        assert said.lines == [] and store.tries == ["log a"]


class Noted:
    """Stands for the manifest of a sweep of two models."""

    def __init__(self) -> None:
        protocol = {"version": "1", "device_type": "cpu", "git_commit": None, "schema_version": SCHEMA_VERSION}
        self.manifest = Manifest(sweep_id="1", name="demo", **protocol, config=ManifestConfig(), models=())
        self.urls: tuple[str | None, dict[str, str | None]] = (None, {})

    def entry(self, name: str) -> ManifestEntry:
        return ManifestEntry(name=name, folder=name, state="MEASURING")

    def note_runs(self, sweep: str | None, models: dict[str, str | None]) -> None:
        self.urls = (sweep, models)


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def models() -> list[Any]:
    return [SimpleNamespace(name=name, hash=f"hash-{name}") for name in ("toy-1l", "toy-2l")]


class TestWhatIsSaidOfASweep:
    def test_the_manifest_learns_where_its_runs_are(self, runs, noted, models, store):
        runs.start(noted, models)
        assert noted.urls == (
            "http://mlflow/sweep",
            {"toy-1l": "http://mlflow/hash-toy-1l", "toy-2l": "http://mlflow/hash-toy-2l"},
        )
        assert store.told == ["start sweep", "start toy-1l", "start toy-2l", "describe 1"]

    def test_and_keeps_it(self, config, folder):
        keeper = ManifestKeeper(Run.of(config))
        models = (
            ManifestEntry(name=n, folder=n, state="MEASURING", run_url=url) for n, url in (("a", None), ("b", "old"))
        )
        keeper.manifest = Manifest(config=ManifestConfig(), models=tuple(models))
        keeper.note_runs("http://mlflow/sweep", {"a": "http://mlflow/a", "b": None})
        kept = json.loads(folder.manifest.read_text())
        assert kept["run_url"] == "http://mlflow/sweep"
        assert [entry["run_url"] for entry in kept["models"]] == ["http://mlflow/a", None]

    def test_the_end_is_described_before_the_run_is_closed(self, runs, noted, models, store, folder):
        runs.start(noted, models)
        runs.end_sweep("FINISHED")
        assert [what for what in store.told[4:] if not what.startswith("machine")] == [
            "keep compare.html", "describe 1", "end sweep FINISHED",
        ]  # fmt: skip

    def test_an_early_end_is_described_when_all_runs_are_closed(self, runs, noted, models, store, folder):
        runs.start(noted, models)
        runs.end_early(["c"], "KILLED", "interrupted")
        ended = [what for what in store.told[4:] if not what.startswith("machine")]
        assert ended[-1] == "describe 1" and "end c KILLED (interrupted)" in ended

    def test_a_sweep_that_goes_on_is_described_now_and_then(self, runs, noted, models, log, store, folder, monkeypatch):
        runs.start(noted, models)
        log("a")
        wait_until(lambda: "end a FINISHED" in store.told)
        assert store.told.count("describe 1") == 1  # no earlier than half a minute after the last time
        monkeypatch.setattr(logged_runs, "_DESCRIBE_S", 0.0)
        log("b")
        wait_until(lambda: store.told.count("describe 1") == 2)

    def test_a_models_results_are_its_files_and_numbers(self, runs, log, store, folder):
        tables = folder.tables("a")
        tables.mkdir(parents=True)
        row = {"writer": "L0H1", "written": 1.0, "remaining": 0.25, "opposed": -0.8, "erased": 0.75}
        twins = {"erased_centred": 0.5, "clearly_erased": True, "erasers": "L1H0", "dla_slope": -0.5}
        write_frame(pd.DataFrame([row | twins]), tables / "writers.parquet")
        log("a")
        wait_until(lambda: "end a FINISHED" in store.told)
        results = store.logged["a"]
        assert (results.page, results.tables, results.figures) == (
            folder.out / "a" / "index.html", folder.out / "a" / "tables", folder.out / "a" / "figures",
        )  # fmt: skip
        assert results.tags == {"stage": "scan", "most_erased": "L0H1", "most_erased_head": "L0H1"}
        assert results.metrics["erased/most"] == 0.5
        assert results.note.startswith(
            "Most erased: **L0H1**, of which later heads (L1H0) take out 0.50 (0.75 with means kept)"
        )
        assert results.dataset == {"name": "c", "digest": "f", "source": "d", "prompts": 4, "seq_len": 8, "tokens": 30}


class Still:
    """A machine in which nothing happens; fails once it is told to."""

    fails = False

    def sample(self) -> dict[str, float]:
        if self.fails:
            raise OSError("no /proc")
        return {"system/cpu": 1.0}


SAMPLE = "machine {'system/cpu': 1.0}"


class TestTheMachine:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Still:
        machine = Still()
        monkeypatch.setattr(logged_runs, "this_machine", lambda: machine)
        monkeypatch.setattr(logged_runs, "sampling_s", lambda: 0.01)
        monkeypatch.setattr(logged_runs, "_FIRST_SAMPLE_S", 0.01)
        return machine

    def test_is_watched_until_the_sweep_ends(self, runs, noted, models, store, folder):
        runs.start(noted, models)
        wait_until(lambda: store.told.count(SAMPLE) >= 3)
        runs.end_sweep("FINISHED")
        assert store.told[-2:] == [SAMPLE, "end sweep FINISHED"]
        told = len(store.told)
        time.sleep(0.05)
        assert len(store.told) == told
        assert len(store.threads) == 1

    def test_is_no_problem_of_the_run(self, runs, noted, models, store, folder, said):
        store.fails[SAMPLE] = TrackingError("no")
        runs.start(noted, models)
        wait_until(lambda: store.tries.count(SAMPLE) >= 3)
        runs.end_sweep("FINISHED")
        assert runs.problems == [] and said.lines == [] and store.told[-1] == "end sweep FINISHED"

    def test_that_cannot_be_seen_is_left_alone(self, runs, noted, models, store, folder, machine):
        machine.fails = True
        runs.start(noted, models)
        time.sleep(0.05)
        runs.end_sweep("FINISHED")
        assert SAMPLE not in store.tries and store.told[-1] == "end sweep FINISHED"

    def test_does_not_hold_up_results(self, runs, noted, models, log, store, folder, monkeypatch):
        monkeypatch.setattr(sender, "RETRY_S", 30)
        runs.start(noted, models)
        wait_until(lambda: SAMPLE in store.told)
        store.is_down = True
        log("a")
        wait_until(lambda: runs._sender._not_before)
        tries = store.tries.count(SAMPLE)
        time.sleep(0.05)
        assert store.tries.count(SAMPLE) == tries  # a store that fails is left alone

    def test_an_interrupt_does_not_wait_for_it(self, runs, noted, models, store, folder, monkeypatch):
        monkeypatch.setitem(logged_runs.NOTING_S, "KILLED", 0.2)
        runs.start(noted, models)
        store.answers.clear()
        wait_until(lambda: store.tries[-1] == SAMPLE and SAMPLE not in store.told[-1:])
        runs.end_early([], "KILLED", "interrupted")  # though it goes on hanging
