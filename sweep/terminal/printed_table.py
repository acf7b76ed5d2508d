"""A table as commands print it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rich.table import Table

Kind = Literal["name", "text", "number"]
"""Of a column: on one line, on as many as it takes, or a number, on one line too."""


def printed_table(title: str, columns: Mapping[str, Kind]) -> Table:
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
            no_wrap=kind != "text",
        )
    return table
