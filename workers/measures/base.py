"""What a measure is: something that reads traces shard by shard, and whose shard states merge into tables.

A measure runs in two places. Next to the accelerator an ``Accumulator`` is updated with the traces of one shard and
exported as plain arrays. Wherever the shards meet, the states of one block of writers are merged in plan order, and
the merged blocks, one at a time, become columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from workers.records import State, Thresholds, WriterBlock
from workers.trace import LeanModel, ModelConfig, Trace

Columns = dict[str, npt.NDArray[Any]]
"""A table by column; NaN and ``None`` are what was not measured."""


@runtime_checkable
class Accumulator(Protocol):
    """A shard's state while it grows, on the model's device."""

    def update(self, trace: Trace) -> None:
        """Take in the tokens of one trace."""
        ...

    def export(self) -> State:
        """The state as arrays that can be stored and merged."""
        ...


@runtime_checkable
class Measure(Protocol):
    """One measurement; ``name`` is its key in the registry and in stored states."""

    name: str

    def start(self, model: LeanModel, writers: WriterBlock) -> Accumulator:
        """An empty state for one shard."""
        ...

    def merge(self, config: ModelConfig, writers: WriterBlock, states: Iterable[State]) -> State:
        """One state that stands for all of them; ``states`` come in plan order and are read one at a time."""
        ...

    def tables(
        self, config: ModelConfig, blocks: Iterable[tuple[WriterBlock, State]], thresholds: Thresholds
    ) -> dict[str, Columns]:
        """Tables of a model from the merged state of each block of writers, in order, read one at a time."""
        ...

    def sketches(self, config: ModelConfig) -> int:
        """Sketches that one writer needs, which bounds the writers of a block."""
        ...


def stack(parts: list[Columns]) -> Columns:
    """One table from tables of the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
