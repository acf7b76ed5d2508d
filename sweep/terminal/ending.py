"""How a signal ends a command: once, in order, and within a bounded time whatever hangs.

The first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; what follows while that is handled is ignored, so that impatience
does not keep a run from noting its end. A thread that needs nothing of the main one ends the process where it does not end,
after a failure too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

INTERRUPTED = 130
LINE = "interrupted; the same command goes on from here"

ORDERLY_S = 20.0
"""How long a command may take to end in order."""
EXIT_S = 3.0
"""How long Python may take to end behind it: it waits for threads of libraries, which may send to a server that hangs."""
_AGAIN_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_interrupted, _over = threading.Event(), threading.Event()
_wakeup: list[int] = []
"""Where numbers of signals are written to, by Python, and exit codes, above them."""
_CODES = 100
_terminals: list[int] = []
"""Descriptors of what is printed to, where that is a terminal: it is gone after SIGHUP."""


def heed_signals() -> None:
    """Let signals end this process as described above, but for one that it was told to ignore, as by ``nohup``."""
    for signum in (*_SIGNALS, signal.SIGALRM):
        if signum is not signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _interrupt)
    sys.unraisablehook = _unraisable
    _terminals[:] = [fd for fd in (1, 2) if os.isatty(fd)]
    arrived, sent = socket.socketpair()
    sent.setblocking(False)
    _wakeup[:] = [sent.detach()]
    signal.set_wakeup_fd(_wakeup[0], warn_on_full_buffer=False)
    # From the start: where memory is short no thread can be started later.
    threading.Thread(target=_end_anyway, args=(arrived,), name="ending", daemon=True).start()


def was_interrupted() -> bool:
    """Whether a signal told the command to end."""
    return _interrupted.is_set()


def begin() -> None:
    """A command begins: what ended an earlier one of this process does not end it."""
    _interrupted.clear()
    _over.clear()


def end(code: int) -> None:
    """The command has ended in order, interrupted or failed; only Python's own end is left."""
    with suppress(OSError, ValueError):  # whoever read it may be gone
        sys.stdout.flush()
    _over.set()
    for descriptor in _wakeup:
        os.write(descriptor, bytes([_CODES + code]))


def _interrupt(signum: int, frame: object) -> None:
    if signum == signal.SIGHUP:
        for descriptor in _terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    _interrupted.set()
    if not _is_ending():
        raise KeyboardInterrupt


def _is_ending() -> bool:
    """Whether an earlier interrupt is being handled; one that a library swallowed is not."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None or _over.is_set()


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that falls into a destructor is dropped by Python: raise it again, a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


def _end_anyway(arrived: socket.socket) -> None:
    """Wait for a signal or an exit code, then for the process to end, and end it where it does not."""
    while not (heard := {number for number in arrived.recv(64) if number in _SIGNALS or number >= _CODES}):
        pass
    code = max(heard) - _CODES
    if code >= 0:
        time.sleep(EXIT_S)
        os._exit(code)
    if _over.wait(ORDERLY_S):
        time.sleep(EXIT_S)
    else:
        os.write(2, f"erasure-sweep: {LINE}\n".encode())
    os._exit(INTERRUPTED)
