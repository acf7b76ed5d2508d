"""Where commands print to, and the shapes of what several of them print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.table import Table

Kind = Literal["name", "text", "number"]
"""Of a column: on one line, on as many as it takes, or a number."""
PLAIN_WIDTH = 120
console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def print_line(line: str = "") -> None:
    """Print a line as it is, so that paths and commands can be copied."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def table_of(title: str, columns: Mapping[str, Kind]) -> Table:
    """An empty table.

    Args:
        title: above it.
        columns: the kind of each, by heading.
    """
    table = Table(title=title, title_justify="left")
    for heading, kind in columns.items():
        table.add_column(
            heading,
            justify="right" if kind == "number" else "left",
            overflow="fold",
            no_wrap=kind == "name",
        )
    return table
