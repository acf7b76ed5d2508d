"""What crosses between the driver and the workers: plain records, importable without torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

State = dict[str, npt.NDArray[Any]]
"""A shard's exported result: named arrays, never objects."""


class WriterBlock(NamedTuple):
    """The writers of one shard: ``Layout.writers[start:stop]``."""

    start: int
    stop: int


class Thresholds(NamedTuple):
    """What makes a later head oppose a writer: median PR ≤ −``tau`` and a negative upper quartile."""

    tau: float = 0.05


class Resolved(NamedTuple):
    """A model and its corpus, staged and ready to be planned."""

    name: str
    spec: str
    hash: str
    weights: str
    """Path of the processed weights."""
    weights_bytes: int
    architecture: dict[str, Any]
    """``workers.trace.ModelConfig`` as a dict."""
    n_params: int
    n_writers: int
    sketches_per_writer: int
    tokens: str
    """Path of the token array."""
    corpus_fingerprint: str
    corpus_description: str
    n_prompts: int
    seq_len: int


class ShardTask(NamedTuple):
    """Everything a worker needs to know to measure one shard."""

    id: str
    model_hash: str
    weights: str
    tokens: str
    first_prompt: int
    n_prompts: int
    writers: WriterBlock
    positions: int | None
    """How many positions of each prompt are measured; ``None`` for all."""
    seed: int
    batch: int
    """Prompts in one forward pass."""
    device: str
    dtype: str


class ShardResult(NamedTuple):
    """What a worker returns for a shard."""

    id: str
    state: bytes
    batch: int
    """Prompts in one forward pass that fitted into memory: the task's own unless memory ran out."""
