"""The reference page of all tables, ``docs/tables.md``, made from their declarations: ``make docs`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby

from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.columns import Column, Table
from erasure_sweep.workers.tables.registry import TABLES

_HEAD = f"""# The tables

Made from the declarations in `workers/tables/declarations` by `make docs`; change those, not this page.

A sweep leaves the tables of each model as parquet files in `OUT/MODEL/tables`. They are long: one row for each measurement,
sorted by the columns that say what a row is about, labels in the order in which components add to the stream. What was not
measured is null, never zero. Unit and meaning of a column stand in the metadata of its field too, and `schema_version` in
that of the file: it is now {SCHEMA_VERSION}, and is raised when a column changes.

The words are explained in [method.md](method.md): PR is the projection ratio, β the pooled coefficient, DLA the direct logit
attribution. Every table begins with `model`, the model's name, unique in the sweep.
"""


def reference() -> str:
    """The page in markdown."""
    contents = "\n".join(
        f"- [`{name}`](#{name}), of {' and '.join(table.stages)}: one row for each {_listed(table.key)}"
        for name, table in TABLES.items()
    )
    return "\n".join([_HEAD, contents, "", *(_section(table) for table in TABLES.values())]).rstrip() + "\n"


def _section(table: Table) -> str:
    rows = [
        _row(list(columns))
        for _, columns in groupby(table.own_columns, key=lambda column: column.family or column.name)
    ]
    heading = ["| column | meaning | type | unit |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {table.name}", "", table.meaning, "", *heading, *rows, ""])


def _row(columns: list[Column]) -> str:
    """A column, or a family of columns."""
    first = columns[0]
    kind = f"{first.type} or null" if first.nullable else first.type
    cells = (
        _listed(column.name for column in columns),
        _in_cell(first.family or first.meaning),
        kind,
        first.unit or "—",
    )
    return f"| {' | '.join(cells)} |"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
