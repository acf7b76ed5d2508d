"""Heavy work off the driver: resolving models and finishing tables run in one helper process that may import torch.

The driver stays light and its loop keeps serving workers meanwhile. The process ends with the driver, however that ends.
Like a worker it may be lost: one that was killed, stopped from outside or does nothing for long is replaced, and its call is
made again. It is no child of ``multiprocessing``, which would run the user's script in it once more, or fail where there is
none, and needs semaphores in shared memory.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, ParamSpec, TypeVar

import psutil

from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder

log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

ATTEMPTS = 3
"""How often a call is made whose process is lost."""
DRIVER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They may reach the whole process group; the driver alone decides what follows from them."""


class Patience(NamedTuple):
    """How long a process may leave a call lie, in seconds of a driver that looks on."""

    stopped_s: float = 20.0
    """It was stopped from outside, by SIGSTOP."""
    idle_s: float = 600.0
    """It takes no time of a processor, as one that waits for something that never comes."""
    look_s: float = 1.0
    """How often it is looked at."""


class _Call(NamedTuple):
    future: Future[Any]
    content: bytes


class HelperProcess:
    """One helper process, started with the first call.

    Args:
        threads: what numerical libraries in it may use of the CPU.
        say: tells people that it was replaced.
        patience: with a process that does nothing.
    """

    def __init__(
        self, threads: int = 1, say: Callable[[str], None] = log.warning, patience: Patience | None = None
    ) -> None:
        self._threads, self._say, self._patience = threads, say, patience or Patience()
        # The process may be ended in the midst of anything: what it has in temporary files goes with this folder.
        self._temporary = TemporaryFolder()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._process: _Process | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="helper", daemon=True)

    def submit(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """Call a function there; calls are made one after the other.

        Args:
            function: of a module, which both processes import: what is heavy it imports itself. It may be called again
                where the process is lost.

        Returns:
            A future of its result; the function's exception is raised from it.
        """
        call = _Call(Future(), pickle.dumps((function, args, kwargs)))
        if self._thread.ident is None:
            self._thread.start()
        self._calls.put(call)
        return call.future

    def close(self) -> None:
        """End the process at once, whatever it is doing."""
        self._closed = True
        self._calls.put(None)
        if self._process:
            self._process.kill()
        self._temporary.close()

    def _serve(self) -> None:
        # What is started from here inherits the mask: no signal hits it before it can ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, DRIVER_SIGNALS)
        while (call := self._calls.get()) and not self._closed:
            if call.future.set_running_or_notify_cancel():
                try:
                    call.future.set_result(self._carry_out(call.content))
                except BaseException as error:  # noqa: BLE001 whoever waits for the result hears of it
                    call.future.set_exception(error)

    def _carry_out(self, content: bytes) -> Any:
        """Make a call, again in another process where one is lost."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._process is None:
                    self._process = _Process(self._threads, str(self._temporary.path), self._patience)
            except OSError as error:
                raise SweepError(f"a helper process cannot be started here: {error.strerror or error}") from error
            try:
                if self._closed:
                    self._process.kill()
                worked, result = self._process.ask(content)
            except (EOFError, OSError) as error:
                reason = self._process.end()
                self._process = None
                if self._closed:
                    raise SweepError("the helper process was closed") from error
                if attempt < ATTEMPTS:
                    self._say(f"the helper process {reason}: another one begins again with what it was doing")
                continue
            if worked:
                return result
            raise result
        raise SweepError(
            f"a helper process was lost {ATTEMPTS} times doing the same, the last one {reason}: most likely memory ran out; "
            "free some, then run again"
        )


class _Process:
    """A process that answers calls, watched while it does.

    Args:
        temporary: folder for its temporary files.
    """

    def __init__(self, threads: int, temporary: str, patience: Patience) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            # Its path is the driver's before it imports anything: what lies in the current folder stays out.
            path = [entry for entry in sys.path if isinstance(entry, str)]  # Python passes over what is none
            script = (
                f"import sys; sys.path[:] = {path!r}; from erasure_sweep.sweep.helper.loop import answer_calls; "
                f"answer_calls({theirs.fileno()}, {temporary!r})"
            )
            self._popen = subprocess.Popen(
                [sys.executable, "-c", script],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        self._patience = patience
        self._why_ended = ""
        self._busy = threading.Event()
        threading.Thread(target=self._watch, name="helper-watch", daemon=True).start()

    def ask(self, content: bytes) -> tuple[bool, Any]:
        """Whether the call worked, and what it returned or raised.

        Raises:
            EOFError, OSError: the process is gone.
        """
        self._busy.set()
        try:
            self._connection.send_bytes(content)
            answer: tuple[bool, Any] = self._connection.recv()
        finally:
            self._busy.clear()
        return answer

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._busy.set()

    def end(self) -> str:
        """Let go of it, and say why it ended."""
        with suppress(subprocess.TimeoutExpired):  # it was told to end, or is about to
            self._popen.wait(self._patience.look_s)
        self.kill()
        self._connection.close()
        code = self._popen.poll()
        if self._why_ended:
            return self._why_ended
        return f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"

    def _watch(self) -> None:
        """Kill it where it leaves a call lie: then the call fails, and is made again elsewhere."""
        process, patience = psutil.Process(self._popen.pid), self._patience
        used_s, idle_s, stopped_s = 0.0, 0.0, 0.0
        while self._popen.poll() is None:
            time.sleep(patience.look_s)
            self._busy.wait()
            with suppress(psutil.Error):
                times = process.cpu_times()
                idle_s = idle_s + patience.look_s if times.user + times.system == used_s else 0.0
                stopped_s = stopped_s + patience.look_s if process.status() == psutil.STATUS_STOPPED else 0.0
                used_s = times.user + times.system
            if stopped_s > patience.stopped_s:
                self._why_ended = f"was stopped from outside for {stopped_s:.0f} s"
            elif idle_s > patience.idle_s:
                self._why_ended = f"has done nothing for {idle_s:.0f} s"
            if self._why_ended:
                self.kill()
                return
