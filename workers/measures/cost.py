"""What measuring takes, worked out before anything is measured; importable without torch.

A stage makes some products once for all its measures (a traced prompt, the parts that heads read). Each product says what it
costs, and each measure says which products it needs and what it costs itself: the cost of a shard is the sum, every product
counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Work

FLOPS_PER_COUNT = 250
"""Counting one value into a sketch takes about as long as so many operations of a matrix product."""

STORED_BYTES_PER_SKETCH = 350
"""Of one shard's counts on disk, compressed, seen on the bundled models."""


class Cost(NamedTuple):
    """What something takes of one shard."""

    passes: float = 0.0
    """Forward passes of one prompt each; one that begins behind a writer counts as half of one."""
    flops: float = 0.0
    """Operations beside those of the passes."""
    stored_bytes: float = 0.0
    """Of its state on disk, compressed."""

    def times(self, n: int) -> Cost:
        """That of so many shards."""
        return Cost(n * self.passes, n * self.flops, n * self.stored_bytes)


class ShardSize(NamedTuple):
    """What the cost of a shard follows from."""

    work: Work
    shape: Mapping[str, Any]
    """``workers.models.model_config.ModelConfig`` as a dict."""
    n_prompts: int
    seq_len: int
    positions: int
    """Measured positions of each prompt."""

    @property
    def n_tokens(self) -> int:
        """Measured tokens."""
        return self.n_prompts * self.positions

    @property
    def layout(self) -> Layout:
        """Order of the model's components."""
        return ModelConfig.from_json(self.shape).layout


class SharedProduct(NamedTuple):
    """Something that a stage makes once for every measure that needs it."""

    name: str
    cost: Callable[[ShardSize], Cost]


def total(costs: Iterable[Cost]) -> Cost:
    """Several costs together."""
    parts = list(costs)
    return Cost(*(sum(values) for values in zip(*parts, strict=True))) if parts else Cost()


def counting(size: ShardSize, n_sketches: int) -> Cost:
    """Counting every token into so many sketches, and keeping them."""
    return Cost(flops=FLOPS_PER_COUNT * size.n_tokens * n_sketches, stored_bytes=STORED_BYTES_PER_SKETCH * n_sketches)
