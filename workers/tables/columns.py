"""What a table and a column are: name, type, unit and meaning, from which schemas and the reference page are made.

A table is declared once, in ``declarations/``. Writing checks what a measure hands over against that (``files``), and unit
and meaning stand in the metadata of the parquet file, so that a file explains itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy.typing as npt
import pyarrow as pa

from erasure_sweep.workers.tables import SCHEMA_VERSION

Columns = dict[str, npt.NDArray[Any]]
"""A table by column; NaN and ``None`` are what was not measured."""

Type = Literal["text", "whole number", "number", "yes or no"]
ARROW: dict[Type, pa.DataType] = {
    "text": pa.large_string(),
    "whole number": pa.int64(),
    "number": pa.float64(),
    "yes or no": pa.bool_(),
}
Stage = Literal["scan", "verify"]

QUANTILES = {"q12_5": 0.125, "q25": 0.25, "median": 0.5, "q75": 0.75, "q87_5": 0.875}
"""The columns of every family of quantiles; 12.5 to 87.5 % is the band that the figures of the paper's authors draw."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: Type
    meaning: str
    unit: str = ""
    """Of a number; a ratio, a slope or a coefficient has the unit ``ratio``."""
    nullable: bool = False
    """Whether a row can lack the value; what was not measured is null, never zero."""
    family: str = ""
    """What the columns of a family have in common; the reference page shows a family in one row."""

    @property
    def field(self) -> pa.Field:
        """As a schema has it, unit and meaning in its metadata."""
        metadata = {"meaning": self.meaning, **({"unit": self.unit} if self.unit else {})}
        return pa.field(self.name, ARROW[self.type], self.nullable, metadata)


@dataclass(frozen=True)
class Table:
    """One table of a model; ``model`` stands before its columns.

    Raises:
        ValueError: two columns have one name, or the key names no column.
    """

    name: str
    meaning: str
    stages: tuple[Stage, ...]
    """Which stages of a sweep write it."""
    key: tuple[str, ...]
    """What a row is about; rows are sorted by these columns, labels in the order of the forward pass."""
    own_columns: tuple[Column, ...]
    """All but ``model``."""

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"table {self.name} declares {', '.join(sorted(twice))} twice")
        if unknown := set(self.key) - set(names):
            raise ValueError(f"the key of table {self.name} names no column: {', '.join(sorted(unknown))}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order in which they are written."""
        return (MODEL, *self.own_columns)

    @property
    def schema(self) -> pa.Schema:
        """The schema that its files have."""
        metadata = {"schema_version": SCHEMA_VERSION, "table": self.name, "meaning": self.meaning}
        return pa.schema([column.field for column in self.columns], metadata=metadata)


def text(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """A label, a list of labels or a word."""
    return Column(name, "text", meaning, nullable=nullable)


def number(name: str, meaning: str, unit: str = "ratio") -> Column:
    """A measured number, null where it could not be measured."""
    return Column(name, "number", meaning, unit, nullable=True)


def count(name: str, meaning: str, unit: str) -> Column:
    """A whole number that every row has: a count, an index or a rank."""
    return Column(name, "whole number", meaning, unit)


def flag(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """Yes or no."""
    return Column(name, "yes or no", meaning, nullable=nullable)


def quantiles(of: str, prefix: str = "", unit: str = "ratio") -> tuple[Column, ...]:
    """A family of quantiles.

    Args:
        of: what is distributed over what: ``the clean PR over tokens``.
        prefix: what stands before ``median`` and the others.
    """
    return tuple(
        replace(number(f"{prefix}{name}", f"{share:.1%} quantile of {of}", unit), family=f"quantiles of {of}")
        for name, share in QUANTILES.items()
    )


def interval(name: str, of: str, unit: str = "ratio") -> tuple[Column, ...]:
    """The ends of a 95 % interval, ``{name}_low`` and ``{name}_high``; ``low`` and ``high`` where the name is empty."""
    family = f"ends of the 95 % interval of {of}; null where fewer than two prompts count, or all give the same"
    stem = f"{name}_" if name else ""
    return tuple(
        replace(number(f"{stem}{end}", f"{end}er end of the 95 % interval of {of}", unit), family=family)
        for end in ("low", "high")
    )


def with_interval(name: str, meaning: str, unit: str = "ratio") -> tuple[Column, ...]:
    """A number and its 95 % interval."""
    return (number(name, meaning, unit), *interval(name, f"`{name}`", unit))


MODEL = text("model", "the model's name, unique in the sweep")
WRITER = text("writer", "the component whose output the row is about")
GROUP_ERASER = text(
    "eraser", "the verified group of later heads, such as `L2H2+L2H3`; `later` where all later heads were taken"
)
N_TOKENS = count("n", "tokens at which the writer has a PR: where |w|² > 10⁻¹⁰ |resid|²", "tokens")


def collect(tables: Iterable[Table]) -> dict[str, Table]:
    """Tables by name, in order of the name.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Table] = {}
    for table in sorted(tables, key=lambda table: table.name):
        if table.name in found:
            raise ValueError(f"two tables are declared as {table.name}: give one of them another name")
        found[table.name] = table
    return found
