"""Rows of a recorder: what each row is, as a small named tuple, and how that is stored: one array for each of its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from erasure_sweep.workers.records import State

RowT = TypeVar("RowT", bound=tuple[Any, ...])
"""A ``NamedTuple`` of strings and integers: what one row is."""


def encode_rows(rows: Sequence[RowT]) -> State:
    """One array for each field, named ``row_`` and the field; none where there are no rows."""
    return {
        f"row_{name}": np.array(values) for name, values in zip(_fields(rows[0]), zip(*rows, strict=True), strict=True)
    }


def decode_rows(kind: Callable[..., RowT], state: State) -> list[RowT]:
    """The rows of a state, in its order; none of a state that is empty."""
    if not state:
        return []
    fields: Iterable[list[Any]] = (state[f"row_{name}"].tolist() for name in _fields(kind))
    return [kind(*values) for values in zip(*fields, strict=True)]


def _fields(row: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = row._fields
    return names
