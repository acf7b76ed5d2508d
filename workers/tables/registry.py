"""Every table that a sweep can write, by name: the ``TABLES`` of each file in ``declarations/``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from erasure_sweep.workers.tables import declarations
from erasure_sweep.workers.tables.columns import Stage, Table, collect


def _declared() -> Iterator[Table]:
    for module in iter_modules(declarations.__path__):
        yield from import_module(f"{declarations.__name__}.{module.name}").TABLES


TABLES = collect(_declared())


def tables_of(stage: Stage) -> tuple[str, ...]:
    """The names of the tables that a stage writes."""
    return tuple(name for name, table in TABLES.items() if stage in table.stages)
