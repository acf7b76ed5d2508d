"""What ends a run before its time."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from erasure_sweep.sweep import model_steps
from erasure_sweep.sweep.commands.main import call
from erasure_sweep.sweep.driver import SweepDriver
from erasure_sweep.sweep.helper.process import HelperProcess, Patience
from erasure_sweep.sweep.staging import ModelStaging
from erasure_sweep.sweep.store.driver_process import this_driver
from erasure_sweep.sweep.terminal import ending
from erasure_sweep.sweep.tracking.logged_runs import LoggedRuns
from erasure_sweep.workers.worker import ShardWorker
from tests.support.bad_input import Bench, Ran, assert_finished, environment
from tests.support.helper_process import lending
from tests.support.waiting import wait_until


@pytest.fixture
def heeding() -> Iterator[None]:
    """Signals end commands of this process as they end the installed command."""
    before = {kind: signal.signal(kind, ending._interrupt) for kind in ending._SIGNALS}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


def interrupted_in(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, *kinds: signal.Signals) -> None:
    """Signals arrive when a function is first called, each while the one before it is being handled."""
    function = getattr(owner, name)

    def interrupt(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, name, function)
        try:
            signal.raise_signal(kinds[0])
        finally:
            for kind in kinds[1:]:
                signal.raise_signal(kind)
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, interrupt)


@pytest.mark.usefixtures("heeding")
@pytest.mark.parametrize(
    ("phase", "owner", "name"),
    [
        pytest.param("resolving", ModelStaging, "finish", marks=pytest.mark.nightly),
        pytest.param("planning", model_steps, "plan_scan", marks=pytest.mark.nightly),
        ("measuring", ShardWorker, "measure"),
        ("logging", LoggedRuns, "log_model"),
        pytest.param("pages", SweepDriver, "_compare", marks=pytest.mark.nightly),
    ],
)
def test_a_signal_in_every_phase(
    bench: Bench, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch, phase: str, owner: Any, name: str
) -> None:
    """Ctrl-C twice, SIGTERM or a closed terminal, whatever the run is doing

    It ends in order with exit 130 and one line, its runs in MLflow are closed, and the same command goes on to the same tables.
    """
    kinds = {"resolving": [signal.SIGTERM], "measuring": [signal.SIGINT, signal.SIGINT], "pages": [signal.SIGHUP]}
    with monkeypatch.context() as patch:
        interrupted_in(owner, name, patch, *kinds.get(phase, [signal.SIGTERM]))
        ran = bench.run(out)
    assert (ran.code, ran.line) == (130, f"erasure-sweep: {ending.LINE}"), ran.stderr
    assert "RUNNING" not in ran.runs.values() and "MEASURING" not in ran.states.values()
    assert not (out / ".driver.json").exists()
    again = bench.run(out)
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


def test_a_terminal_that_is_closed(bench: Bench, out: Path, tmp_path: Path) -> None:
    """A terminal or an ssh connection that is closed while a run is going

    SIGHUP ends the run like Ctrl-C: what is measured is kept, its runs in MLflow are KILLED.
    """
    np.save(tmp_path / "long.npy", np.random.default_rng(2).integers(0, 97, (800, 16)))
    command = bench.command(out, corpus=tmp_path / "long.npy", prompts=800, stage="scan")
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, terminal, termios.TIOCSCTTY, 0),  # noqa: PLW1509 a system call alone
    )
    os.close(terminal)
    os.set_blocking(master, False)
    wait_until(lambda: _read(master) and len(list(out.rglob("*.state"))) >= 3)
    os.close(master)
    assert process.wait() == 130
    ran = bench.ran(process.returncode, "", "", out)
    assert ran.states == {"good": "KILLED"} and set(ran.runs.values()) == {"KILLED"}


def _read(descriptor: int) -> bool:
    """Take what is printed, so that the terminal does not fill."""
    with suppress(BlockingIOError):
        os.read(descriptor, 65536)
    return True


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (signal.SIGKILL, "was ended by SIGKILL"),
        pytest.param(signal.SIGSTOP, "was stopped from outside", marks=pytest.mark.nightly),
    ],
)
def test_a_helper_process_that_is_lost(
    bench: Bench, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, said: str
) -> None:
    """A helper process that memory or somebody ended, or stopped

    It is replaced, with a line, and does again what it was doing; the tables are those of an undisturbed run.
    """
    lines: list[str] = []
    measure: Callable[..., Any] = ShardWorker.measure
    bystanders = {child.pid for child in psutil.Process().children()}

    def measure_alone(*arguments: Any) -> Any:
        monkeypatch.setattr(ShardWorker, "measure", measure)
        (helper,) = [child for child in psutil.Process().children() if child.pid not in bystanders]
        helper.send_signal(sent)
        return measure(*arguments)

    monkeypatch.setattr(ShardWorker, "measure", measure_alone)
    patience = Patience(stopped_s=0.2, look_s=0.05)
    with closing(HelperProcess(say=lines.append, patience=patience)) as helper, lending(helper, pages=False):
        assert call(["run", *bench.flags(out)]) == 0
    assert len(lines) == 1 and lines[0].startswith(f"the helper process {said}")
    ran = bench.ran(0, "", "", out)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()


@pytest.mark.nightly
def test_a_run_that_is_killed_hard(bench: Bench, out: Path, tmp_path: Path) -> None:
    """A run that was killed with kill -9

    What it left among the temporary files is removed by the next run; those of runs that live stay.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    np.save(tmp_path / "long.npy", np.random.default_rng(2).integers(0, 97, (800, 16)))
    command = bench.command(out, corpus=tmp_path / "long.npy", prompts=800, stage="scan")
    here = environment(TMPDIR=str(temporary))
    process = subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL)
    wait_until(lambda: list(out.rglob("*.state")), None)
    process.kill()
    process.wait()
    (left,) = [path for path in temporary.iterdir() if path.is_dir()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        own = HelperProcess()
        assert not left.exists()
        HelperProcess().close()
        assert len(list(temporary.glob("es-*"))) == 1
        own.close()


def test_a_note_of_a_run_that_names_somebody_elses_process(
    bench: Bench, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`stop OUT` where OUT's note of its run names a process that is none, a `sleep` for example

    Number and start of the process are not enough: it has to hold OUT's lock. It is left alone, by `stop` and by `status`.
    """
    sleep = subprocess.Popen(["sleep", "3600"])
    try:
        out.mkdir(parents=True)
        (out / ".driver.json").write_text(json.dumps(this_driver("demo", "", out, sleep.pid)._asdict()))
        assert call(["stop", str(out)]) == 0 and call(["status", str(out)]) == 0
        assert sleep.poll() is None
        assert capsys.readouterr().out == f"no run is working in {out}\n{out}: no run has measured anything\n"
    finally:
        sleep.kill()
        sleep.wait()
