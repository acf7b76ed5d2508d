"""A model with a mover and its backup: a later head that writes what the mover would, less what the mover wrote."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import CODE_DIM, STORE_DIM, Builder, Source, small_config

MOVER, BACKUP, NEGATIVE = "L0H0", "L1H0", "L1H1"


def plant_backup(seed: int = 0) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The mover writes what its token is into one store, its backup into another that the logits read alike.

    ``NEGATIVE`` writes half of that against the answer, into a third one, and nobody answers it.
    """
    config = small_config(2, 3, d_model=56, n_ctx=16, attn_only=True)
    builder = Builder(config, np.random.default_rng(seed), n_stores=3, quiet=True)
    builder.deafen()
    code, (first, *others) = builder.bases.code, builder.bases.stores
    unembed = builder.weights["W_U"]
    for store in others:
        unembed = unembed + store.T @ (first - store) @ unembed
    builder.weights["W_U"] = unembed
    own = builder.normal(CODE_DIM, STORE_DIM, std=0.05)
    builder.plant_head(MOVER, "self", [Source(code, own)], 0)
    builder.plant_head(BACKUP, "self", [Source(code, own), Source(first, -np.eye(STORE_DIM))], 1)
    builder.plant_head(NEGATIVE, "self", [Source(code, -0.5 * own)], 2)
    return config, builder.tensors()
