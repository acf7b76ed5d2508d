"""The command line: help without heavy imports, usage errors in one line, exit codes, signals."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from erasure_sweep.sweep.commands import main
from erasure_sweep.sweep.terminal import ending
from erasure_sweep.workers.errors import DataError, SweepError, UsageError

HEAVY = ("torch", "ray", "mlflow", "transformer_lens", "pandas", "plotly", "datasets")


@pytest.fixture(autouse=True)
def _no_cluster_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def in_a_process(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy():
    commands = [["--help"], ["--version"], *([command, "--help"] for command in main.cli.commands), ["config"]]
    script = f"""
import sys
from erasure_sweep.sweep.commands.main import call
assert [call(arguments) for arguments in {commands}] == [0] * {len(commands)}
sys.exit(" ".join(name for name in {HEAVY} if name in sys.modules))
"""
    done = in_a_process(script)
    assert (done.returncode, done.stderr.strip()) == (1, ""), done.stderr  # exit with a string prints it and is 1
    assert "Measure a sweep. Without arguments: the bundled models, offline." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing command (see `erasure-sweep --help`)"),
        (["ru"], "No such command 'ru'"),
        (["run", "--promts", "3"], "No such option"),
        (
            ["run", "--prompts", "x"],
            "Invalid value for '--prompts': 'x' is not a valid integer (see `erasure-sweep run",
        ),
        (["run", "--positions", "some"], "Invalid value for '--positions': 'some' is neither 'all' nor a number"),
        (["run", "--stage", "both"], "Invalid value for '--stage': 'both' is not one of 'scan', 'verify', 'all'"),
        (["run", "--erasers", "L1H0"], "demo: erasers = 'L1H0': needs writers"),
        (["run", "--model"], "Option '--model' requires an argument"),
        (["run", "demo", "paper"], "Got unexpected extra argument (paper)"),
        (["run", "papr"], "no preset and no file 'papr': did you mean paper?"),
        (["config", "--seed", "-1"], "demo: seed = -1: should be greater than or equal to 0"),
        (["config", "--corpus", ""], "demo: corpus = '': should be a line of text"),
        (["ui", "--port", "70000"], "Invalid value for '--port': 70000 is not in the range 1<=x<=65535"),
        (["run", "--max-workers", "0"], "demo: max_workers = 0: should be greater than or equal to 1"),
        (["submit"], "Missing argument 'PRESET|CONFIG.yaml' (see `erasure-sweep submit"),
        (["submit", "demo"], "name the cluster with --address (or RAY_API_SERVER_ADDRESS)"),
        (["submit", "demo", "--address", "auto"], "--address auto is no address of a Ray dashboard"),
        (["submit", "demo", "--ray-address", "x"], "No such option"),
        (["stop"], "Missing argument 'OUT|JOB'"),
        (["stop", "demo-1"], "demo-1 is no folder of a run; if it is a job: name the cluster with --address"),
        (["clean", "--older-than", "30"], "Invalid value for '--older-than': '30' is no age: give days or hours"),
        (["clean", "--older-than", "-1d"], "Invalid value for '--older-than': '-1d' is no age: give days or hours"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    assert main.call(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"erasure-sweep: {line}")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such thing"), 2, "no such thing"),
        (DataError("damaged"), 1, "damaged"),
        (SweepError("two\n  lines"), 1, "two lines"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "a/b: Permission denied (--debug shows where)"),
        (OSError(36, "File name too long", "x" * 300), 2, f"{'x' * 200}…: File name too long"),
        (RuntimeError("Symlink loop from 'a/b'"), 2, "a/b is a symbolic link that leads to itself"),
        (ValueError("odd\nthing"), 1, "unexpected ValueError: odd thing (--debug shows where)"),
        (MemoryError(), 1, "unexpected MemoryError: (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("erasure_sweep.sweep.config.load_config", fail)
    assert main.call(["config"]) == code
    lines = capsys.readouterr().err.split("\n")
    assert lines[-1] == "" and lines[-2].startswith(f"erasure-sweep: {line}")
    assert [text for text in lines[:-2] if text] == []


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]):
    assert main.call(["run", "papr", "--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "erasure-sweep: no preset and no file 'papr': did you mean paper?"


def called(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[str, tuple[object, ...]]]:
    """What is called of these functions, in place of them."""
    calls: list[tuple[str, tuple[object, ...]]] = []
    for name in names:
        monkeypatch.setattr(name, lambda *arguments, name=name: calls.append((name, arguments)))
    return calls


@pytest.mark.parametrize("left", ["manifest.json", ".driver.json", ".store"])
def test_what_is_a_run_and_what_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str):
    """A folder that a run left something in is a run, and so is every path; another name is a job."""
    calls = called(
        monkeypatch,
        "erasure_sweep.sweep.jobs.local_runs.status",
        "erasure_sweep.sweep.jobs.local_runs.stop",
        "erasure_sweep.sweep.jobs.submission.status",
        "erasure_sweep.sweep.jobs.submission.stop",
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial").mkdir()
    for arguments in (["status", "trial"], ["stop", "trial", "--address", "head"]):
        assert main.call(arguments) == 0
    (tmp_path / "trial" / left).touch()
    for arguments in (
        ["status"],
        ["status", "--address", "head"],
        ["status", "trial"],
        ["stop", "trial"],
        ["stop", "x/y"],
    ):
        assert main.call(arguments) == 0
    assert calls == [
        ("erasure_sweep.sweep.jobs.submission.status", ("trial", None)),
        ("erasure_sweep.sweep.jobs.submission.stop", ("trial", "head")),
        ("erasure_sweep.sweep.jobs.local_runs.status", (None,)),
        ("erasure_sweep.sweep.jobs.submission.status", (None, "head")),
        ("erasure_sweep.sweep.jobs.local_runs.status", (Path("trial"),)),
        ("erasure_sweep.sweep.jobs.local_runs.stop", (Path("trial"),)),
        ("erasure_sweep.sweep.jobs.local_runs.stop", (Path("x/y"),)),
    ]


def test_what_is_cleaned(monkeypatch: pytest.MonkeyPatch):
    calls = called(monkeypatch, "erasure_sweep.sweep.cleaning.clean.clean")
    assert main.call(["clean", "a", "b", "--dry-run"]) == 0
    arguments = ["--staged", "--store", "s3://x", "--name", "y", "--name", "z", "--older-than", "30d", "--staging", "w"]
    assert main.call(["clean", *arguments]) == 0
    assert main.call(["clean", "--staged", "--older-than", "12h"]) == 0
    assert [given for _, given in calls] == [
        ([Path("a"), Path("b")], [], False, [], None, None, True),
        ([], ["s3://x"], True, ["y", "z"], timedelta(days=30), "w", False),
        ([], [], True, [], timedelta(hours=12), None, False),
    ]


def test_an_error_that_says_how_to_go_on_after_an_interrupt_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        ending._interrupted.set()
        error = SweepError("it goes on there")
        error.exit_code = 130
        raise error

    monkeypatch.setattr("erasure_sweep.sweep.config.load_config", interrupted)
    assert main.call(["config"]) == 130
    assert capsys.readouterr().err == "erasure-sweep: it goes on there\n"


def test_config_prints_what_can_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--model", "a", "--model", "b", "--positions", "7", "--workers", "0", "--seq-len", "9", "--out", "x"]
    assert main.call(["config", "paper", *flags]) == 0
    printed = capsys.readouterr().out
    values = yaml.safe_load(printed)
    assert values["models"] == ["a", "b"]
    assert (values["positions"], values["workers"], values["seq_len"], values["out"]) == (7, 0, 9, "x")
    assert (values["corpus"], values["seed"], values["prompts"]) == ("gelu-mix", 5235, 300)
    (tmp_path / "again.yaml").write_text(printed)
    assert main.call(["config", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == printed


def test_the_reference_is_printed(capsys: pytest.CaptureFixture[str]):
    assert main.call(["config", "--reference"]) == 0
    assert "| `seq_len` | `256` |" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-c",
        "from erasure_sweep.sweep.commands.main import main; main(['config', '--reference'])",
    ]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_without_unicode_is_no_error():
    script = (
        "import sys; from erasure_sweep.sweep.commands import main\n"
        "main.cli.command('say')(lambda: sys.stdout.write('-τ')); main.main(['say'])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"-?", b"")


SIGNALLED = """
import os, signal, sys, time
from erasure_sweep.sweep.commands import main

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), {signal})
        time.sleep(0.01)

@main.cli.command()
def wait():
    {action}
    time.sleep(20)

main.main(["wait"])
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "action",
    [
        "os.kill(os.getpid(), {signal})",
        "Destructor()  # where Python drops exceptions",
        """
    try:
        os.kill(os.getpid(), {signal})
        time.sleep(1)
    except KeyboardInterrupt:
        raise RuntimeError('a library makes another error of it')
""",
    ],
    ids=["plain", "in-a-destructor", "changed-by-a-library"],
)
def test_interrupts_always_arrive(name: str, action: str):
    script = SIGNALLED.format(signal=f"signal.{name}", action=action.format(signal=f"signal.{name}"))
    done = in_a_process(script)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "erasure-sweep: interrupted; the same command goes on from here"


def test_a_thread_that_hangs_does_not_keep_an_interrupted_command():
    """As those of clients that send to a server which does not answer."""
    action = "threading.Thread(target=time.sleep, args=(600,)).start(); os.kill(os.getpid(), signal.SIGTERM)"
    script = SIGNALLED.format(signal="signal.SIGTERM", action=action)
    done = in_a_process("import threading\n" + script)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "erasure-sweep: interrupted; the same command goes on from here"


def test_a_thread_that_hangs_does_not_keep_a_command_that_failed():
    action = "threading.Thread(target=time.sleep, args=(600,)).start(); raise main.SweepError('it failed')"
    done = in_a_process("import threading\n" + SIGNALLED.format(signal="signal.SIGTERM", action=action))
    assert (done.returncode, done.stderr) == (1, "erasure-sweep: it failed\n")


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        (
            """
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        print("noted", flush=True)
""",
            "noted\n",
        ),
        (
            """
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    except KeyboardInterrupt:
        pass
    os.kill(os.getpid(), signal.SIGINT)
""",
            "",
        ),
        (
            """
    from erasure_sweep.sweep.terminal import ending
    ending.ORDERLY_S = 0.1
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(20)
    finally:
        threading.Event().wait()
""",
            "",
        ),
    ],
    ids=["again-while-it-ends", "again-after-a-library-swallowed-it", "while-its-end-hangs"],
)
def test_interrupts_that_come_again(action: str, shown: str):
    """Impatience does not break off the end in order; an end that hangs is cut off."""
    done = in_a_process("import threading\n" + SIGNALLED.format(signal="signal.SIGINT", action=action))
    assert (done.returncode, done.stdout) == (130, shown), done.stderr
    assert done.stderr.strip() == "erasure-sweep: interrupted; the same command goes on from here"


def test_a_store_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ending, "heed_signals", lambda: None)  # pytest's own signals stay as they are
    out = tmp_path / "out"
    arguments = ["run", "--model", "toy-gelu-1l", "--workers", "0", "--out", str(out), "--store", "nosuchproto://x"]
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == 2
    assert "nosuchproto" in capsys.readouterr().err
    assert not out.exists()
