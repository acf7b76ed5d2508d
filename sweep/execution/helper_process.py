"""Heavy work off the driver: resolving models and finishing tables run in one helper process that may import torch.

The driver stays light and its loop keeps serving workers meanwhile. The process ends with the driver, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class HelperProcess:
    """One helper process.

    Args:
        threads: what numerical libraries in it may use of the CPU.
    """

    def __init__(self, threads: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._kept, self._line = context.Pipe(duplex=False)
        # The process may be ended in the midst of anything: what it has in temporary files goes with this folder.
        self._temporary = tempfile.TemporaryDirectory(prefix="erasure-sweep-", ignore_cleanup_errors=True)
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=context,
            initializer=_initialize,
            initargs=(threads, self._kept, self._temporary.name),
        )

    def submit(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """Call a function there.

        Args:
            function: of a module, which both processes import: what is heavy it imports itself.

        Returns:
            A future of its result; the function's exception is raised from it.
        """
        # The first call starts the process, which inherits the mask: Ctrl-C does not hit it before it can ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return self._pool.submit(function, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def close(self) -> None:
        """End the process at once, whatever it is doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._line.close()
        self._kept.close()
        self._temporary.cleanup()


def _initialize(threads: int, line: Connection, temporary: str) -> None:
    tempfile.tempdir = temporary
    # Ctrl-C reaches the whole process group; the driver alone decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with_parent, args=(line,), daemon=True).start()


def _end_with_parent(line: Connection) -> None:
    """End when nobody is at the other end of ``line``: the driver closed it, or is gone."""
    connection.wait([line])
    os._exit(1)
