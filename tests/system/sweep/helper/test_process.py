"""The helper process: functions that are called there by themselves, and a driver that stays light beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from erasure_sweep.sweep.helper.process import ATTEMPTS, HelperProcess, Patience
from erasure_sweep.workers.errors import SweepError, UsageError
from tests.support.waiting import wait_until


def its_process(plus: int = 0) -> int:
    return os.getpid() + plus


def fail(reason: str) -> None:
    raise UsageError(reason)


def hang_at_first(folder: Path) -> int:
    """Never return, the first time that it is called."""
    first = not list(folder.iterdir())
    (folder / str(os.getpid())).touch()
    while first:
        time.sleep(3600)
    return os.getpid()


def end_itself() -> None:
    os._exit(3)


class AwkwardError(Exception):
    """One that cannot be read back from its bytes, as some of libraries."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


def raise_awkward() -> None:
    raise AwkwardError(5, "it went wrong")


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


def test_an_error_that_cannot_travel_is_told(background: HelperProcess) -> None:
    with pytest.raises(RuntimeError, match=r"^AwkwardError: it went wrong \(5\)$"):
        background.submit(raise_awkward).result()
    assert background.submit(its_process).result()


@pytest.mark.parametrize(
    ("sent", "patience", "said"),
    [
        (signal.SIGKILL, Patience(), "was ended by SIGKILL"),
        (signal.SIGSTOP, Patience(stopped_s=0.05, look_s=0.02), "was stopped from outside for "),
        (signal.SIGTERM, Patience(idle_s=2.0, look_s=0.05), "has done nothing for "),
    ],
)
def test_a_process_that_is_lost_is_replaced_and_its_call_made_again(
    tmp_path: Path, sent: signal.Signals, patience: Patience, said: str
) -> None:
    """Killed, stopped, or waiting for nothing; what is sent to the whole group, as SIGTERM, is the driver's affair."""
    lines: list[str] = []
    with closing(HelperProcess(say=lines.append, patience=patience)) as helper:
        result = helper.submit(hang_at_first, tmp_path)
        wait_until(lambda: list(tmp_path.iterdir()))
        first = int(next(tmp_path.iterdir()).name)
        os.kill(first, sent)
        assert result.result() != first
    assert len(lines) == 1
    assert lines[0].startswith(f"the helper process {said}") and lines[0].endswith(
        "begins again with what it was doing"
    )


def test_a_call_that_ends_its_process_every_time_is_one_line() -> None:
    lines: list[str] = []
    with closing(HelperProcess(say=lines.append)) as helper:
        with pytest.raises(SweepError, match=r"lost 3 times doing the same, the last one ended with code 3: "):
            helper.submit(end_itself).result()
        assert len(lines) == ATTEMPTS - 1
        assert helper.submit(its_process).result() != os.getpid()


def test_naming_what_the_helper_does_imports_nothing_that_it_needs() -> None:
    script = (
        "import sys\n"
        "import erasure_sweep.sweep.driver, erasure_sweep.sweep.helper.tasks\n"
        "sys.exit(f'imported {heavy}' if (heavy := {'torch', 'ray', 'mlflow'} & set(sys.modules)) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_path_object_among_the_places_of_modules_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [Path(), *sys.path])
    with closing(HelperProcess()) as background:
        assert background.submit(os.getpid).result() != os.getpid()
