"""A sweep's runs in MLflow, as the driver sees them: a store that fails or is slow costs nothing that is measured.

Before anything is measured a store that cannot be reached is an error. From then on everything is sent from a thread of
its own, in order, and the driver's loop never waits for it. What fails is kept and tried again while measuring goes on, and
once more at the end; what is not logged even then is a problem of the run: results stay in OUT, and the next ``run`` logs
them. An interrupt waits for MLflow no longer than a person would.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sweep.config import SweepConfig
from sweep.files import RunFolder
from sweep.manifest import Manifest
from sweep.progress import Reporter, duration
from sweep.tracking import DatasetInfo, Status, Tracker, TrackingError, default_uri, model_metrics
from sweep.verify_metrics import verify_metrics
from workers.errors import SweepError
from workers.records import Resolved

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""Between two tries while the store fails."""

NOTING_S: dict[Status, float] = {"KILLED": 4.0, "FAILED": 30.0}
"""How long a run that ends before its time waits for MLflow to take that down."""

_SLOW_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class LoggedRuns:
    """The sweep's run and its models' runs.

    Args:
        config: the sweep; names the store and the experiment.
        reporter: hears when the store fails and when it answers again, from another thread.
    """

    def __init__(self, config: SweepConfig, reporter: Reporter) -> None:
        self._config = config
        self._reporter = reporter
        self._tracker = Tracker(config.tracking_uri or default_uri(), config.experiment or config.name)
        self._sender = _Sender(self._tracker.check, reporter.say)

    @property
    def problems(self) -> list[str]:
        """What is not logged, a line each."""
        return self._sender.problems()

    def check(self) -> None:
        """Reach the store now.

        Raises:
            SweepError: it cannot be reached or written.
        """
        self._sender.call(self._tracker.check)

    def start(self, manifest: Manifest, models: list[Resolved]) -> None:
        """Open the sweep's run and each model's, now.

        Raises:
            SweepError: they cannot be written.
        """
        self._sender.call(lambda: self._start(manifest, models))

    def _start(self, manifest: Manifest, models: list[Resolved]) -> None:
        values = manifest.values
        tags = {key: str(values[key]) for key in ("version", "device_type", "git_commit") if values[key]}
        tags |= {"stage": self._config.stage}
        self._tracker.start_sweep(values["sweep_id"], self._config.protocol(), tags)
        shown = ("n_layers", "n_heads", "d_model", "d_mlp", "n_ctx", "d_vocab", "act_fn", "attn_only", "n_params")
        for model in models:
            entry = manifest.entry(model.name)
            found = {key: entry[key] for key in (*shown, "hash", "corpus_fingerprint", "n_prompts", "n_tokens")}
            training = ("base", "training_tokens", "training_steps", "corpus_name")
            found |= {key: entry[key] for key in training if entry[key] is not None}
            params = {**found, **self._config.protocol()}
            self._tracker.start_model(model.name, model.hash, params, tags)

    def log_model(self, model: Resolved, folder: RunFolder, entry: dict[str, Any]) -> None:
        """Log a finished model, soon."""
        tables, figures, stages = folder.tables(entry["folder"]), folder.figures(entry["folder"]), [*entry["stages"]]
        dataset: DatasetInfo = {
            "name": Path(model.corpus).name,
            "digest": model.corpus_fingerprint[:32],
            "source": model.corpus_description,
        }

        def send() -> None:
            measured = {path.stem: pd.read_parquet(path) for path in sorted(tables.glob("*.parquet"))}
            metrics = model_metrics(measured) | verify_metrics(measured)
            self._tracker.tag_model(model.hash, {"stage": "+".join(stages)})
            self._tracker.log_model(model.hash, metrics, tables, figures, dataset)
            self._tracker.end_model(model.hash, "FINISHED")

        self._sender.add([_Job(model.hash, send)])

    def end_model(self, model_hash: str, status: Status, reason: str) -> None:
        """Close the run of a model that was not measured whole, soon."""
        self._sender.add([self._end_job(model_hash, status, reason)])

    def end_sweep(self, folder: RunFolder, status: Status) -> None:
        """Close the sweep's run, with its page and manifest, and wait until all is logged or has failed once more.

        It is FAILED where something of its models could not be logged.
        """

        def send() -> None:
            self._log_files(folder)
            self._tracker.end_sweep("FAILED" if self.problems else status)

        tried = self._sender.try_all([_Job(None, send)])
        if not self._sender.wait(tried, _SLOW_S):
            self._reporter.say("nothing more to measure, waiting for MLflow to take what there is")
            self._sender.wait(tried)
        self._sender.raise_unexpected()

    def end_early(self, model_hashes: Iterable[str], folder: RunFolder, status: Status, reason: str) -> None:
        """Close the sweep's run and those of models that were not measured whole, as far as MLflow takes it in time.

        When interrupted, measured models that wait to be logged are left to the next run.
        """
        left = self._sender.drop() if status == "KILLED" else []
        jobs = [
            _Job(None, lambda: self._tracker.end_sweep(status)),
            *(self._end_job(model_hash, status, reason) for model_hash in dict.fromkeys([*model_hashes, *left])),
            _Job(None, lambda: self._log_files(folder)),
        ]
        if not self._sender.wait(self._sender.try_all(jobs), NOTING_S[status]):
            log.warning("MLflow did not take down within %g s that the run ended", NOTING_S[status])

    def close(self) -> None:
        """Send nothing more."""
        self._sender.close()

    def _end_job(self, model_hash: str, status: Status, reason: str) -> _Job:
        return _Job(model_hash, lambda: self._tracker.end_model(model_hash, status, reason))

    def _log_files(self, folder: RunFolder) -> None:
        for path in (folder.comparison, folder.manifest):
            if path.exists():
                self._tracker.log_sweep_artifact(path)


class _Job(NamedTuple):
    """Something to be logged in one run."""

    run: str | None
    """The model's hash; ``None`` for the sweep's own run."""
    send: Callable[[], object]


class _Sender:
    """Sends jobs one after the other from a thread of its own, and keeps those that fail until they go through.

    Jobs of one run keep their order. A run whose job fails does not hold up the others, unless the store fails as a whole.

    Args:
        check: raises SweepError where the store fails as a whole.
        say: tells people a line.
    """

    def __init__(self, check: Callable[[], object], say: Callable[[str], None]) -> None:
        self._check, self._tell = check, say
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._sending: _Job | None = None
        self._not_before = 0.0
        self._asked = self._answered = 0  # flushes
        self._closed = False
        self._failing_since: float | None = None
        self._failures: dict[_Job, str] = {}
        self._given_up: list[str] = []
        self._unexpected: Exception | None = None
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object]) -> None:
        """Have this done next, wait for it, and raise what it raises."""
        result: Future[object] = Future()

        def send() -> None:
            try:
                result.set_result(function())
            except Exception as error:  # noqa: BLE001 it is raised where it was asked for
                result.set_exception(error)

        self.add([_Job(None, send)])
        result.result()

    def add(self, jobs: Iterable[_Job], last_try: bool = False) -> None:
        """Send these behind what waits.

        Args:
            last_try: now, with all that waits.
        """
        with self._changed:
            self._waiting += jobs
            self._asked += last_try
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()

    def drop(self) -> list[str]:
        """Forget what waits, unless it is being sent, and return the models that it was of."""
        with self._changed:
            dropped = [job for job in self._waiting if job is not self._sending]
            self._waiting = [job for job in self._waiting if job is self._sending]
        return [job.run for job in dropped if job.run is not None]

    def try_all(self, jobs: Iterable[_Job]) -> int:
        """Try these and everything that waits, now and for the last time; returns what to ``wait`` for."""
        self.add(jobs, last_try=True)
        return self._asked

    def wait(self, tried: int, timeout_s: float | None = None) -> bool:
        """Whether everything was tried within ``timeout_s``, though perhaps in vain."""
        with self._changed:
            return self._changed.wait_for(lambda: self._answered >= tried, timeout_s)

    def problems(self) -> list[str]:
        """Why something is not logged, each reason once."""
        with self._changed:
            waiting = [self._failures[job] for job in self._waiting if job in self._failures]
            return list(dict.fromkeys([*self._given_up, *waiting]))

    def raise_unexpected(self) -> None:
        """Raise what went wrong here other than what users can mend."""
        if self._unexpected is not None:
            raise self._unexpected

    def close(self) -> None:
        """Send nothing more; what is being sent is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they wake the driver, whatever it waits for
        while True:
            with self._changed:
                while not (self._closed or self._is_due()):
                    self._changed.wait(max(0.0, self._not_before - time.monotonic()) if self._waiting else None)
                if self._closed:
                    return
                asked = self._asked
            self._send_all(final=asked > self._answered)
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return self._asked > self._answered or bool(self._waiting and time.monotonic() >= self._not_before)

    def _send_all(self, final: bool) -> None:
        """One try of everything; ``final`` if no other follows."""
        failed: set[str | None] = set()
        while (job := self._next(failed)) is not None:
            if not self._send(job, final):
                failed.add(job.run)
                if not self._answers():
                    break
        self._sending = None
        if failed:
            self._not_before = time.monotonic() + RETRY_S
        elif self._failing_since is not None:
            away = duration(time.monotonic() - self._failing_since)
            self._failing_since = None
            self._say(f"MLflow answers again, after {away}: everything that was measured until now is logged")

    def _next(self, failed: set[str | None]) -> _Job | None:
        with self._changed:
            able = (job for job in self._waiting if job.run not in failed)
            self._sending = None if self._closed else next(able, None)
            return self._sending

    def _send(self, job: _Job, final: bool) -> bool:
        """Whether this needs no other try."""
        try:
            job.send()
        except TrackingError as error:
            self._note_failure(job, error, final)
            return False
        except SweepError as error:
            log.warning("something cannot be logged", exc_info=True)
            self._given_up.append(str(error))
        except Exception as error:
            log.exception("logging failed unexpectedly")
            self._unexpected = error  # for raise_unexpected, in the driver's own thread
        with self._changed:
            self._waiting.remove(job)
        return True

    def _note_failure(self, job: _Job, error: TrackingError, final: bool) -> None:
        with self._changed:
            self._failures[job] = str(error)
        if self._failing_since is not None:
            log.info("MLflow still fails: %s", error)
            return
        self._failing_since = time.monotonic()
        log.warning("MLflow failed", exc_info=True)
        if not final:
            self._say(f"{error}, unless it takes them before this one ends")

    def _answers(self) -> bool:
        try:
            self._check()
        except SweepError:
            return False
        return True

    def _say(self, line: str) -> None:
        if not self._closed:
            with suppress(OSError):  # nobody reads any more: the driver meets that itself
                self._tell(line)
