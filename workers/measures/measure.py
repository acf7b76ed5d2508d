"""What a measure is: something that reads traces shard by shard, and whose shard states merge into tables.

A measure runs in two places. Next to the accelerator an ``Accumulator`` is updated with the prompts of one shard and
exported as plain arrays. Wherever the shards meet, the states of one block of writers are merged in plan order, and
the merged blocks, one at a time, become columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.scan.products import ProductReader, PromptProducts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanOptions, State, WriterBlock

Columns = dict[str, npt.NDArray[Any]]
"""A table by column; NaN and ``None`` are what was not measured."""


@runtime_checkable
class Accumulator(Protocol):
    """A shard's state while it grows, on the model's device."""

    def update(self, products: PromptProducts) -> None:
        """Take in one prompt."""
        ...

    def export(self) -> State:
        """The state as arrays that can be stored and merged."""
        ...


@runtime_checkable
class Measure(Protocol):
    """One measurement; ``name`` is its key in the registry and in stored states."""

    name: str

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """How many sketches each writer needs, which bounds the writers of a block."""
        ...

    def start(self, reader: ProductReader) -> Accumulator:
        """An empty state for one shard."""
        ...

    def merge(self, model: LeanModel, writers: WriterBlock, options: ScanOptions, states: Iterable[State]) -> State:
        """One state that stands for all of them; ``states`` come in plan order and are read one at a time."""
        ...


def stack(parts: list[Columns]) -> Columns:
    """One table from tables of the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
