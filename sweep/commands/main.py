"""The command line: every subcommand is a file of this folder, and every error a user meets is one line.

Heavy imports stand inside the handlers, so that ``--help`` answers at once. Exit codes: 0 everything was measured, 1
something failed (the last line of stderr says what), 2 a usage or config error (one line), 130 interrupted and resumable.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback

import click

from erasure_sweep.sweep.commands.clean import clean
from erasure_sweep.sweep.commands.compare import compare
from erasure_sweep.sweep.commands.config import config
from erasure_sweep.sweep.commands.export import export
from erasure_sweep.sweep.commands.fetch import fetch
from erasure_sweep.sweep.commands.models import models
from erasure_sweep.sweep.commands.replicate import replicate
from erasure_sweep.sweep.commands.run import run
from erasure_sweep.sweep.commands.status import status
from erasure_sweep.sweep.commands.stop import stop
from erasure_sweep.sweep.commands.submit import submit
from erasure_sweep.sweep.commands.ui import ui
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.version import VERSION

COMMANDS = (run, models, fetch, compare, export, replicate, submit, status, stop, clean, ui, config)
INTERRUPTED = 130
_AGAIN_S = 0.05
_EXIT_S = 3.0
_interrupted = threading.Event()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=False)
@click.version_option(VERSION, package_name="erasure-sweep")
def cli() -> None:
    """Measure which components of language models erase what earlier ones wrote."""


for command in COMMANDS:
    cli.add_command(command)


def _interrupt(signum: int, frame: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that falls into a destructor is dropped by Python: raise it again, a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error a user meets is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, _interrupt)
    sys.unraisablehook = _unraisable
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no τ is no reason to fail
    code = call(arguments)
    if code == INTERRUPTED:
        _end_soon(code)
    sys.exit(code)


def _end_soon(code: int) -> None:
    """Python waits for threads of libraries on its way out, and one that sends to a server that hangs would keep it."""
    sys.stdout.flush()
    end = threading.Timer(_EXIT_S, os._exit, (code,))
    end.daemon = True
    end.start()


def call(arguments: list[str]) -> int:
    """Run a command in this process and return its exit code; an error is one line on stderr."""
    _interrupted.clear()  # what ended an earlier command of this process does not end this one
    try:
        cli(arguments, prog_name="erasure-sweep", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return _end_interrupted()
    except BrokenPipeError:
        # Whoever read this has gone; so that Python does not try to flush to them on its way out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SweepError.exit_code
    except Exception as error:  # noqa: BLE001 the last line of defence: users get a line, --debug the traceback
        if "--debug" in arguments:
            from erasure_sweep.sweep.printing import echo

            echo(traceback.format_exc(), to_stderr=True, end=False)
        # Libraries turn an interrupt that falls into them into errors of their own.
        return _end_interrupted() if _interrupted.is_set() and not _tells_interrupt(error) else _end_failed(error)
    return 0


def _tells_interrupt(error: Exception) -> bool:
    """Whether an error is about the interrupt itself."""
    return isinstance(error, SweepError) and error.exit_code == INTERRUPTED


def _end_interrupted() -> int:
    _print_line("interrupted; the same command goes on from here")
    return INTERRUPTED


def _end_failed(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "erasure-sweep"
        _print_line(f"{error.format_message().rstrip('.')} (see `{command} --help`)")
        return UsageError.exit_code
    if isinstance(error, SweepError):
        _print_line(str(error))
        return error.exit_code
    _print_line(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
    return SweepError.exit_code


def _print_line(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    from erasure_sweep.sweep.printing import echo

    echo(f"erasure-sweep: {' '.join(message.split())}", to_stderr=True)
