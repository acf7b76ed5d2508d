"""Heavy work off the driver: resolving models and finishing tables run in one helper process that may import torch.

The driver stays light and its loop keeps serving workers meanwhile. The process ends with the driver, however that ends.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from typing import Any


class Background:
    """One helper process.

    Args:
        threads: what numerical libraries in it may use of the CPU.
    """

    def __init__(self, threads: int = 1) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(threads,),
        )

    def submit(self, target: str, *args: Any) -> Future[Any]:
        """Call a function there, named ``module:function`` so that only that process imports it.

        Returns:
            A future of its result; the function's exception is raised from it.
        """
        return self._pool.submit(_call, target, args)

    def close(self) -> None:
        """End the process, giving up what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call(target: str, args: tuple[Any, ...]) -> Any:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(*args)


def _initialize(threads: int) -> None:
    # Ctrl-C reaches the whole process group; the driver alone decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
