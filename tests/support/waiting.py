"""Waiting for what another process or thread does: pytest's own timeout is the only clock."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Return once the condition holds.

    Args:
        process: that has to work until then.
    """
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


@contextmanager
def sleeping_at_most(seconds: float) -> Iterator[None]:
    """Fail where this process sleeps for longer in all, as between retries; how busy the machine is does not matter."""
    slept, sleep = [0.0], time.sleep

    def counted(for_s: float) -> None:
        slept.append(for_s)
        sleep(for_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", counted)
        yield
    assert sum(slept) <= seconds
