"""Everything that is printed goes through here: what comes from outside is shown, never obeyed, and without its secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from erasure_sweep.workers.credentials import masked
from erasure_sweep.workers.printable import printable, printable_line

PLAIN_WIDTH = 120


class PrintableConsole(Console):
    """A console that shows control characters in whatever it prints, but for its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string, as ``Console`` does: here, so that what is shown has its room."""
        return super().render_str(printable(masked(text)), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render to segments, as ``Console`` does."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


console = PrintableConsole() if sys.stdout.isatty() else PrintableConsole(width=PLAIN_WIDTH)


def print_line(line: str = "") -> None:
    """Print a line as it is, so that paths and commands can be copied."""
    console.print(printable_line(line), highlight=False, markup=False, soft_wrap=True)


def echo(text: str, *, to_stderr: bool = False, end: bool = True) -> None:
    """Print text of several lines, without a console's colours."""
    click.echo(printable(masked(text)), err=to_stderr, nl=end)  # noqa: TID251 here alone


class PrintableFormatter(logging.Formatter):
    """Lines of a log that can be printed, tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, as ``Formatter`` does."""
        return printable(masked(super().format(record)))
