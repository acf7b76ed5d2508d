"""Models whose stream grows, or whose first position is a sink, while nothing else in them changes.

Both are made of planted models, in which the carrier is a direction that nobody reads and that all but makes the scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planted import Planted, plant
from tests.support.models.planting import CARRIER, Builder, head_index, small_config

POWER_OF_SINK = 93.0
"""Of a writer's output at position 0, in units of its mean power at the other positions."""


def plant_growth(seed: int, factor: float, layer: int = 1) -> Planted:
    """A model without erasers in which an MLP's bias makes the stream ``factor`` times as long."""
    planted = plant(seed, fraction=0.0, reinforcement=0.0)
    carrier = planted.weights["W_pos"].mean(dim=0)
    carrier = carrier / carrier.norm()  # all positions share it, and the clock turns whole circles
    bias = planted.weights["b_out"].clone()
    bias[layer] += (factor - 1.0) * CARRIER * carrier
    return planted._replace(weights={**planted.weights, "b_out": bias})


class WithSink(NamedTuple):
    """The same model with and without a sink: what ``pos_embed`` writes at position 0."""

    config: ModelConfig
    plain: dict[str, torch.Tensor]
    sink: dict[str, torch.Tensor]
    eraser: str
    """Of ``pos_embed``, and the only reader of its store: it attends to every position alike."""
    fraction: float
    store: np.ndarray

    def from_first(self, weights: dict[str, torch.Tensor], n: int) -> float:
        """β of what the eraser writes at positions 1 … n − 1 because of position 0."""
        written = weights["W_pos"].numpy()[:n]
        read = -self.fraction * written[0] @ self.store.T @ self.store
        products = [read @ written[p] / (p + 1) for p in range(1, n)]
        return float(sum(products) / (written[1:] ** 2).sum())


def plant_sink(seed: int, fraction: float = 0.7, n_layers: int = 3, n_ctx: int = 16) -> WithSink:
    """Plant a writer, its eraser, and a sink of which the stream's scale does not tell."""
    config, eraser = small_config(n_layers, 3, n_ctx=n_ctx), f"L{n_layers - 1}H0"
    builder = Builder(config, np.random.default_rng(seed), quiet=True)
    written, store = builder.plant_writer("pos_embed"), builder.bases.stores[0]
    builder.plant_reader(eraser, "uniform", -fraction)
    for name in ("W_Q", "W_K", "W_V", "W_in"):
        weights = builder.weights[name]
        unread = weights - np.einsum("sd,sc,...ch->...dh", store, store, weights)
        if name != "W_in":
            unread[head_index(eraser)] = weights[head_index(eraser)]
        builder.weights[name] = unread
    plain = builder.tensors()
    first = plain["W_pos"].clone()
    own = written[0] @ store.T
    shared = (written[1:] @ store.T).mean(axis=0)
    size = math.sqrt(POWER_OF_SINK * (written[1:] ** 2).sum(axis=1).mean() - (written[0] ** 2).sum() + own @ own)
    there = size * shared / np.linalg.norm(shared)
    # As long as before: what the store gains, the carrier gives.
    carrier = math.sqrt(CARRIER**2 + own @ own - there @ there) - CARRIER
    first[0] += torch.from_numpy((there - own) @ store + carrier * builder.bases.carrier[0])
    return WithSink(config, plain, {**plain, "W_pos": first}, eraser, fraction, store)
