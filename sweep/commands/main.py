"""The command line: every subcommand is a file of this folder, and every error a user meets is one line.

Heavy imports stand inside the handlers, so that ``--help`` answers at once. Exit codes: 0 everything was measured, 1
something failed (the last line of stderr says what), 2 a usage or config error (one line), 130 interrupted and resumable.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from pathlib import Path

import click

from erasure_sweep.sweep.commands.audit import audit
from erasure_sweep.sweep.commands.check import check
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
from erasure_sweep.sweep.terminal import ending
from erasure_sweep.workers.errors import ERROR_LINE_LENGTH, SweepError, UsageError, shortened
from erasure_sweep.workers.version import VERSION

COMMANDS = (run, audit, models, fetch, compare, export, replicate, submit, status, stop, clean, check, ui, config)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=False)
@click.version_option(VERSION, package_name="erasure-sweep")
def cli() -> None:
    """Measure which components of language models erase what earlier ones wrote."""


for command in COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error a user meets is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    ending.heed_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no τ is no reason to fail
    code = call(arguments)
    if code:
        ending.end(code)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Put nothing where a standard stream was closed (``>&-``): what is opened next would take its place, and be written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def call(arguments: list[str]) -> int:
    """Run a command in this process and return its exit code; an error is one line on stderr."""
    ending.begin()
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
            from erasure_sweep.sweep.terminal.printing import echo

            echo(traceback.format_exc(), to_stderr=True, end=False)
        # Libraries turn an interrupt that falls into them into errors of their own.
        return _end_interrupted() if ending.was_interrupted() and not _tells_interrupt(error) else _end_failed(error)
    return 0


def _tells_interrupt(error: Exception) -> bool:
    """Whether an error is about the interrupt itself."""
    return isinstance(error, SweepError) and error.exit_code == ending.INTERRUPTED


def _end_interrupted() -> int:
    _print_line(ending.LINE)
    return ending.INTERRUPTED


_LOOP = re.compile(r"Symlink loop from '(.*)'", re.DOTALL)


def _end_failed(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "erasure-sweep"
        _print_line(f"{shortened(error.format_message().rstrip('.'))} (see `{command} --help`)")
        return UsageError.exit_code
    if isinstance(error, SweepError):
        _print_line(str(error))
        return error.exit_code
    if isinstance(error, RuntimeError) and (loop := _LOOP.fullmatch(str(error))):  # pathlib's, of Python before 3.13
        _print_line(f"{loop[1]} is a symbolic link that leads to itself: remove it, or name another path")
        return UsageError.exit_code
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        name = str(error.filename)
        shown = name if len(name) <= ERROR_LINE_LENGTH else f"{name[:ERROR_LINE_LENGTH]}…"
        _print_line(f"{shown}: {error.strerror} (--debug shows where)")
        return UsageError.exit_code if error.errno == errno.ENAMETOOLONG else SweepError.exit_code
    _print_line(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
    return SweepError.exit_code


def _print_line(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    from erasure_sweep.sweep.terminal.printing import echo

    echo(f"erasure-sweep: {' '.join(message.split())}", to_stderr=True)
