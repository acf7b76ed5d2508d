"""One helper process for many runs: to start one, which imports torch, takes longer than a small sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from erasure_sweep.sweep import driver, estimate
from erasure_sweep.sweep.execution.helper_process import HelperProcess


class _Lent:
    """The shared process, which outlives the runs that use it."""

    def __init__(self, background: HelperProcess) -> None:
        self.submit = background.submit

    def close(self) -> None:
        pass


@contextmanager
def lending(background: HelperProcess) -> Iterator[None]:
    """Runs in this process use this helper in place of one of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (driver, estimate):
            patch.setattr(module, "HelperProcess", lambda: _Lent(background))
        yield
