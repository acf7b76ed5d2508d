"""Planted models with a head that takes a part out of every earlier head: of what these write alone, or of all that it reads.

In quiet models (``tests.support.models.planting``), so that no other head takes anything out of another.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import STORE_DIM, Builder, small_config

N_HEADS = 4
TAKEN = 0.4
"""What the head takes out of each."""
_SMALL = 0.1
"""Writers write so much less than all else, so that random directions of the stream lie mostly elsewhere."""

Reads = Literal["heads", "everything", "nothing"]


class Broad(NamedTuple):
    """A model whose head ``eraser`` takes ``TAKEN`` out of all that it reads."""

    config: ModelConfig
    weights: dict[str, Tensor]
    writers: tuple[str, ...]
    """The first layer's heads, each with a store of its own."""
    eraser: str


def plant_broad(seed: int, reads: Reads, *, n_ctx: int = 16) -> Broad:
    """A model of two layers.

    Args:
        seed: of all that is random in it.
        reads: the writers' stores, or all of the stream but its constant; ``nothing``: there is no eraser.
        n_ctx: of the model.
    """
    d_model = 72
    d_head = d_model if reads == "everything" else N_HEADS * STORE_DIM
    config = small_config(2, N_HEADS, d_model=d_model, d_head=d_head, n_ctx=n_ctx)
    builder = Builder(config, np.random.default_rng(seed), N_HEADS, quiet=True)
    writers = tuple(f"L0H{head}" for head in range(N_HEADS))
    for store, writer in enumerate(writers):
        builder.plant_writer(writer, store)
        builder.weights["W_O"][0, store] *= _SMALL
    if reads != "nothing":
        ones = np.ones((d_model, 1)) / np.sqrt(d_model)
        hidden = [ones.T, builder.bases.carrier]
        seen = (
            np.concatenate(builder.bases.stores) if reads == "heads" else np.eye(d_model) - sum(b.T @ b for b in hidden)
        )
        builder.plant_reader("L1H0", "self", 0.0)
        builder.weights["W_V"][1, 0] = builder.scale * seen.T
        builder.weights["W_O"][1, 0] = -TAKEN * seen
    return Broad(config, builder.tensors(), writers, "L1H0")
