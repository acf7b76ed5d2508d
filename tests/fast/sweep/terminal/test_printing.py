"""What is printed shows control characters and keeps the console's own."""

from __future__ import annotations

import io
import logging

import pytest
from rich.progress import Progress
from rich.table import Table

from erasure_sweep.sweep.terminal.printing import PrintableConsole, PrintableFormatter, echo

BAD = "a\x1b[2Jb"


def printed(*things: object, terminal: bool = False) -> str:
    file = io.StringIO()
    console = PrintableConsole(file=file, width=60, force_terminal=terminal)
    for thing in things:
        console.print(thing, markup=False, highlight=False, style="bold")
    return file.getvalue()


def test_text_and_tables():
    table = Table(BAD)
    table.add_row(BAD)
    text = printed(BAD, table)
    assert "\x1b" not in text
    assert text.count("a␛[2Jb") == 3


def test_the_consoles_own_colours_stay():
    assert printed(BAD, terminal=True) == "\x1b[1ma␛[2Jb\x1b[0m\n"


def test_bars():
    file = io.StringIO()
    with Progress(console=PrintableConsole(file=file, force_terminal=True, width=60)) as bars:
        bars.add_task(BAD, total=1)
    assert "a␛[2J" in file.getvalue()
    assert BAD not in file.getvalue()


def test_lines_and_logs(capsys: pytest.CaptureFixture[str]):
    echo(f"{BAD}\n{BAD}")
    assert capsys.readouterr().out == "a␛[2Jb\na␛[2Jb\n"
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (BAD,), None)
    assert PrintableFormatter("%(message)s").format(record) == "a␛[2Jb"
