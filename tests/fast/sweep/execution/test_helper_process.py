"""The helper process: functions that are called there by themselves, and a driver that stays light beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from erasure_sweep.sweep.execution.helper_process import HelperProcess
from erasure_sweep.workers.errors import UsageError


def its_process(plus: int = 0) -> int:
    return os.getpid() + plus


def fail(reason: str) -> None:
    raise UsageError(reason)


@pytest.fixture(scope="module")
def background() -> Iterator[HelperProcess]:
    with closing(HelperProcess()) as background:
        yield background


def test_functions_are_called_in_one_other_process(background: HelperProcess) -> None:
    first, second = background.submit(its_process).result(), background.submit(its_process, plus=1).result()
    assert first != os.getpid() and second == first + 1


def test_an_error_comes_back_as_it_is(background: HelperProcess) -> None:
    with pytest.raises(UsageError, match="of no use"):
        background.submit(fail, "of no use").result()


def test_naming_what_the_helper_does_imports_nothing_that_it_needs() -> None:
    script = (
        "import sys\n"
        "import erasure_sweep.sweep.driver, erasure_sweep.sweep.helper_tasks\n"
        "sys.exit(f'imported {heavy}' if (heavy := {'torch', 'ray', 'mlflow'} & set(sys.modules)) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
