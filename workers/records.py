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


class Group(NamedTuple):
    """Later heads that are measured together as erasers of one writer."""

    writer: str
    erasers: tuple[str, ...]

    @property
    def label(self) -> str:
        """As tables name it: ``L2H2+L2H3``."""
        return "+".join(self.erasers)


class ScanOptions(NamedTuple):
    """What a scan is told beside its model and tokens."""

    ln: str = "frozen"
    """LayerNorm scale of a value input from which a writer is subtracted: ``frozen`` at its clean value, or
    ``recompute``."""
    groups: tuple[Group, ...] = ()
    seed: int = 0
    sample_below: int = 2**64
    """Tokens whose hash (``workers.positions.hash_u64``) is below this are kept one by one, for rank correlations."""
    sample: int = 1000
    """How many of them are used, those with the lowest hashes."""
    shard_tokens: int = 2**31
    """Upper bound on the measured tokens of one shard."""


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
    sketches: tuple[int, ...]
    """How many sketches each writer needs."""
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
    options: ScanOptions
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
