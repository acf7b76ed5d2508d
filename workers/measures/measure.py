"""What a measure is: one file that says how prompts are taken in, how states merge, which tables follow, and what it costs.

A measure runs in two places. Next to the accelerator an ``Accumulator`` is updated with what its stage makes of each prompt
(products that all measures of the stage share), and exported as plain arrays. Wherever the shards meet, the states of one
block of shards are merged in plan order, and the merged blocks, one at a time, become columns.

A measure is a class derived from ``Measure`` in a file of its own in ``measures/scan`` or ``measures/verify``: the registry
finds it there. A table that is drawn from other tables alone is a ``DerivedTable``, found in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Place, ScanOptions, State, TrustThresholds
from erasure_sweep.workers.tables.columns import Columns

WorkT = TypeVar("WorkT")
"""What the shards of the measure's stage are told to measure."""
ShardT = TypeVar("ShardT")
"""What the stage makes once for a shard."""
ProductsT = TypeVar("ProductsT")
"""What the stage makes of each prompt."""
Products_contra = TypeVar("Products_contra", contravariant=True)


@runtime_checkable
class Texts(Protocol):
    """Texts of tokens and places, for the tables that show them; ``None`` where the model has no tokenizer."""

    def token(self, token_id: int) -> str | None:
        """The text of one token."""
        ...

    def tokens(self, token_ids: Sequence[int]) -> Sequence[str | None]:
        """The texts of some tokens, each by itself."""
        ...

    def text(self, place: Place) -> str | None:
        """The end of a place's prompt, up to the place."""
        ...


@dataclass(frozen=True)
class Block(Generic[WorkT]):
    """What is measured at once: some work on a model, by shards that differ in their prompts, and merge into one state."""

    model: LeanModel
    work: WorkT
    """Of one of the shards."""
    means: Float[Tensor, "term d_model"] | None = None
    """Of every term over the scan, for the shards of the stages behind it."""

    @property
    def layout(self) -> Layout:
        """Order of the model's components."""
        return self.model.config.layout


class NoTexts:
    """Where texts are not shown."""

    def token(self, token_id: int) -> str | None:
        """None."""
        return None

    def tokens(self, token_ids: Sequence[int]) -> Sequence[str | None]:
        """None of any."""
        return [None] * len(token_ids)

    def text(self, place: Place) -> str | None:
        """None."""
        return None


class Setting(NamedTuple):
    """What tables depend on beside states."""

    tau: float = 0.05
    """How much of a writer a head has to take away before it counts as its eraser."""
    held_out: bool = True
    """Whether verify's prompts are others than those that the erasers were chosen on."""
    texts: Texts = NoTexts()
    trust: TrustThresholds = TrustThresholds()
    """Where one word of trust ends and another begins."""


@runtime_checkable
class Accumulator(Protocol[Products_contra]):
    """A shard's state while it grows, on the model's device."""

    def update(self, products: Products_contra) -> None:
        """Take in one prompt."""
        ...

    def export(self) -> State:
        """The state as arrays that can be stored and merged; empty where this shard has none."""
        ...


class Measure(ABC, Generic[WorkT, ShardT, ProductsT]):
    """One measurement."""

    stage: ClassVar[str]
    """Of a shard: one of ``measures.stages.STAGES``."""
    name: ClassVar[str]
    """Its key in stored states; once in a stage."""
    needs: ClassVar[tuple[SharedProduct, ...]]
    """What the stage has to make for it."""
    tables: ClassVar[tuple[str, ...]]
    """Names of the tables that it writes, or has rows in."""

    @abstractmethod
    def start(self, shard: ShardT) -> Accumulator[ProductsT]:
        """An empty state for one shard."""

    @abstractmethod
    def merge(self, block: Block[WorkT], states: Iterable[State]) -> State:
        """One state that stands for all of them; ``states`` come in plan order and are read one at a time."""

    @abstractmethod
    def columns(self, block: Block[WorkT], states: Mapping[str, State], setting: Setting) -> Mapping[str, Columns]:
        """Rows of its tables for one block; tables without rows may be left out.

        Args:
            states: the block's merged states, of all measures of the stage by name.
        """

    @abstractmethod
    def cost(self, size: ShardSize) -> Cost:
        """What it takes of one shard beside the products that it needs."""

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """How many quantile sketches each writer needs in a shard of the scan, which bounds the writers of a block."""
        return [0] * len(layout.writers)

    def complete(self, tables: Mapping[str, Columns], setting: Setting) -> None:
        """Fill in, in place, what takes the rows of all blocks: nothing, unless a measure says otherwise."""


class DerivedTable(ABC):
    """A table that follows from other tables, of its stage or of one before it."""

    stage: ClassVar[str]
    name: ClassVar[str]

    @abstractmethod
    def columns(self, layout: Layout, tables: Mapping[str, Columns], setting: Setting) -> Columns:
        """The table, from those of the measures of its stage and of those before it."""


def stack(parts: Sequence[Columns]) -> Columns:
    """One table from tables of the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


Row = dict[str, Any]
"""One row of a table, by column."""


def columns_of(tables: Mapping[str, Sequence[Row]]) -> dict[str, Columns]:
    """Tables made row by row as columns; those without rows are left out."""
    return {name: _as_columns(rows) for name, rows in tables.items() if rows}


def _as_columns(rows: Sequence[Row]) -> Columns:
    columns: Columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        plain = all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)
        columns[name] = np.array(values) if plain else np.array(values, dtype=object)
    return columns
