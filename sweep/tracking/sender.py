"""A thread that sends what is to be logged, in order, and keeps what fails until it goes through."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, TypeVar

from erasure_sweep.sweep.terminal.progress import duration
from erasure_sweep.sweep.tracking.tracker import TrackingError
from erasure_sweep.workers.errors import SweepError

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""Between two tries while the store fails."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
_ENDED = (
    "the thread that logs to MLflow ended or cannot begin, most likely because memory ran out: free some; the next "
    "`erasure-sweep run` goes on"
)
_Result = TypeVar("_Result")


class Job(NamedTuple):
    """Something to be logged in one run."""

    run: str | None
    """The model's hash; ``None`` for the sweep's own run."""
    send: Callable[[], object]


class Sender:
    """Sends jobs one after the other from a thread of its own, and keeps those that fail until they go through.

    Jobs of one run keep their order. A run whose job fails does not hold up the others, unless the store fails as a whole.

    Args:
        check: raises SweepError where the store fails as a whole.
        say: tells people a line.
    """

    def __init__(self, check: Callable[[], object], say: Callable[[str], None]) -> None:
        self._check, self._tell = check, say
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._sending: Job | None = None
        self._not_before = 0.0
        self._asked = self._answered = 0  # flushes
        self._closed = False
        self._ended = False
        """Whether the thread is no more, so that nothing may wait for it."""
        self._failing_since: float | None = None
        self._failures: dict[Job, str] = {}
        self._given_up: list[str] = []
        self._unexpected: Exception | None = None
        self._thread: threading.Thread | None = None
        self._aside: Callable[[], object] | None = None
        self._aside_every_s = 0.0
        self._aside_at = 0.0

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Have this done next, wait for it, return what it returns and raise what it raises."""
        result: Future[_Result] = Future()

        def send() -> None:
            try:
                result.set_result(function())
            except Exception as error:  # noqa: BLE001 it is raised where it was asked for
                result.set_exception(error)
            with self._changed:
                self._changed.notify_all()

        self.add([Job(None, send)])
        with self._changed:
            self._changed.wait_for(lambda: result.done() or self._ended)
        if not result.done():
            raise SweepError(_ENDED)
        return result.result()

    def repeat(self, function: Callable[[], object], first_s: float, every_s: float) -> None:
        """Have this, which raises nothing, done now and then while nothing waits.

        Args:
            first_s: seconds until the first time.
            every_s: seconds between two.
        """
        with self._changed:
            self._aside, self._aside_at, self._aside_every_s = function, time.monotonic() + first_s, every_s
            self._changed.notify_all()

    def add(self, jobs: Iterable[Job], last_try: bool = False) -> None:
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
            try:
                self._thread.start()
            except RuntimeError as error:  # "can't start new thread"
                self._ended = True
                raise SweepError(_ENDED) from error

    def drop(self) -> list[str]:
        """Forget what waits, unless it is being sent, and return the models that it was of."""
        with self._changed:
            dropped = [job for job in self._waiting if job is not self._sending]
            self._waiting = [job for job in self._waiting if job is self._sending]
        return [job.run for job in dropped if job.run is not None]

    def try_all(self, jobs: Iterable[Job]) -> int:
        """Try these and everything that waits, now and for the last time; returns what to ``wait`` for."""
        self.add(jobs, last_try=True)
        return self._asked

    def wait(self, tried: int, timeout_s: float | None = None) -> bool:
        """Whether everything was tried within ``timeout_s``, though perhaps in vain."""
        with self._changed:
            return self._changed.wait_for(lambda: self._answered >= tried or self._ended, timeout_s)

    def problems(self) -> list[str]:
        """Why something is not logged, each reason once."""
        with self._changed:
            waiting = [self._failures[job] for job in self._waiting if job in self._failures]
            ended = [_ENDED] if self._ended and not self._closed else []
            return list(dict.fromkeys([*self._given_up, *waiting, *ended]))

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
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they wake the driver, whatever it waits for
            self._send_until_closed()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _send_until_closed(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._is_due() or self._is_aside_due()):
                    self._changed.wait(self._patience_s())
                if self._closed:
                    return
                asked, is_due = self._asked, self._is_due()
            if not is_due:
                self._do_aside()
                continue
            self._send_all(final=asked > self._answered)
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _patience_s(self) -> float | None:
        """How long to sleep unless woken."""
        dues = [self._not_before] if self._waiting else []
        dues += [self._aside_at] if self._aside and not self._waiting else []
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _is_aside_due(self) -> bool:
        return self._aside is not None and not self._waiting and time.monotonic() >= self._aside_at

    def _do_aside(self) -> None:
        assert self._aside is not None
        self._aside()
        self._aside_at = time.monotonic() + self._aside_every_s

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

    def _next(self, failed: set[str | None]) -> Job | None:
        with self._changed:
            able = (job for job in self._waiting if job.run not in failed)
            self._sending = None if self._closed else next(able, None)
            return self._sending

    def _send(self, job: Job, final: bool) -> bool:
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

    def _note_failure(self, job: Job, error: TrackingError, final: bool) -> None:
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
