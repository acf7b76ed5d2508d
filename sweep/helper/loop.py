"""What the helper process runs: calls as they come, one after the other, until the driver is gone."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection

from erasure_sweep.sweep.helper.process import DRIVER_SIGNALS


def answer_calls(line: int, temporary: str) -> None:
    """Answer calls for ever.

    Args:
        line: descriptor of the connection with the driver.
        temporary: folder for temporary files.
    """
    for signum in DRIVER_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DRIVER_SIGNALS)
    tempfile.tempdir = temporary
    connection, calls = Connection(line), queue.SimpleQueue[bytes]()
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    while True:
        connection.send_bytes(_answer(calls.get()))


def _listen(connection: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Take in calls; end where nobody is at the other end, whatever is being done: the driver is gone."""
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def _answer(content: bytes) -> bytes:
    """A call's result, or what it raised, as bytes that the driver can read."""
    try:
        function, args, kwargs = pickle.loads(content)  # noqa: S301 the driver's own
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # noqa: BLE001 whatever it is, the driver raises it
        error.add_note(f"In the helper process:\n{traceback.format_exc()}")
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # noqa: S301 as the driver will
        except Exception:  # noqa: BLE001 one of a library that cannot travel
            answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return answer
