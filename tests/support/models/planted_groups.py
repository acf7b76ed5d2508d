"""Planted models for verify's verdicts: erasure that is shared out, that is of everything, that is of siblings, and none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import Builder, head_index, small_config


class PlantedGroup(NamedTuple):
    """A quiet model, its writers, and the heads that take something out of them."""

    config: ModelConfig
    weights: dict[str, Tensor]
    writers: tuple[str, ...]
    erasers: tuple[str, ...]


def plant_distributed(seed: int, n_erasers: int = 16, share: float = 0.045) -> PlantedGroup:
    """A writer that many heads of later layers each take a little of: (1 − share) ** n_erasers is left."""
    config = small_config(1 + n_erasers // 2, 2, attn_only=True, n_ctx=12)
    builder = Builder(config, np.random.default_rng(seed), quiet=True)
    builder.vary_elsewhere()
    builder.plant_writer("L0H0")
    erasers = tuple(head for head in config.layout.heads if not head.startswith("L0"))
    for head in erasers:
        builder.plant_reader(head, "self", -share)
    return PlantedGroup(config, builder.tensors(), ("L0H0",), erasers)


def plant_shrinking(seed: int, amount: float = 0.4) -> PlantedGroup:
    """Three writers, and a last layer whose heads together write −amount times the whole stream at their own position."""
    config = small_config(3, 6, n_ctx=12)
    builder = Builder(config, np.random.default_rng(seed), n_stores=3, quiet=True)
    writers = tuple(f"L0H{head}" for head in range(3))
    for store, writer in enumerate(writers):
        builder.plant_writer(writer, store)
    turned = np.linalg.qr(builder.normal(config.d_model, config.d_model, std=1.0))[0]
    erasers = tuple(f"L2H{head}" for head in range(config.n_heads))
    for head, rows in zip(erasers, np.split(turned, config.n_heads), strict=True):
        layer, number = head_index(head)
        builder.plant_head(head, "self", [])
        builder.weights["W_V"][layer, number] = builder.scale * rows.T
        builder.weights["W_O"][layer, number] = -amount * rows
    return PlantedGroup(config, builder.tensors(), writers, erasers)


def plant_broad(seed: int, amount: float = 0.8) -> PlantedGroup:
    """Three heads of one layer, each with a store of its own, and one head that takes out all three stores and nothing else."""
    config = small_config(3, 3, d_model=96, d_head=12, n_ctx=12)
    builder = Builder(config, np.random.default_rng(seed), n_stores=3, quiet=True)
    writers = tuple(f"L0H{head}" for head in range(3))
    for store, writer in enumerate(writers):
        builder.plant_writer(writer, store)
    builder.vary_elsewhere()
    builder.plant_head("L2H0", "self", [])
    stores = np.concatenate(builder.bases.stores)
    builder.weights["W_V"][2, 0], builder.weights["W_O"][2, 0] = builder.scale * stores.T, -amount * stores
    return PlantedGroup(config, builder.tensors(), writers, ("L2H0",))
