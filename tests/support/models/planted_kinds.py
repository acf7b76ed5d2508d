"""Planted models of the Llama and Gemma kinds: what is planted stands behind grouped value heads, and behind norms.

``planting`` writes vectors whose entries sum to zero, so RMSNorm divides by what LayerNorm divides by. There are no
vectors of positions: embeddings hold the carrier, and planted heads attend to all tokens before them alike. Of the heads
of a group one is planted; the others read the same values and write them elsewhere. A norm behind an attention layer
would divide what is planted by the size of all that the layer writes: one head of the layer writes the carrier again, which
rules that size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from erasure_sweep.workers.models.model_config import weight_shapes
from tests.support.models.planted import Planted
from tests.support.models.planting import CARRIER, Builder, head_index, small_config

Kind = Literal["Llama", "Gemma"]
WRITER, ERASER = "L0H0", "L2H1"
N_HEADS, N_KEY_VALUE_HEADS = 4, 2
_STEADY = 3
"""Number of the head that writes the carrier in each layer of a Gemma; its value head is none of the planted heads'."""
_COMMON = {"norm": "rms", "positions": "rotary", "rotary_dim": 4, "gated_mlp": True, "attn_bias": False}
KINDS: dict[Kind, dict[str, object]] = {
    "Llama": {"act_fn": "silu"},
    "Gemma": {"act_fn": "gelu_new", "norm_behind": True, "score_cap": 2.0, "logit_cap": 3.0, "windows": (0, 5, 0)},
}


def plant_kind(kind: Kind, seed: int, fraction: float = 0.8) -> Planted:
    """A model of a kind in which head L2H1 erases some of what head L0H0 wrote.

    Args:
        seed: of all that is random in it.
        fraction: how much of what it reads the eraser takes away.
    """
    rng = np.random.default_rng(seed)
    builder = Builder(small_config(3, N_HEADS), rng)
    table = builder.plant_writer(WRITER)
    builder.attend(*head_index(WRITER), "uniform")
    builder.plant_reader(ERASER, "uniform", -fraction)
    config = replace(builder.config, n_key_value_heads=N_KEY_VALUE_HEADS, **_COMMON, **KINDS[kind])
    weights, carrier = dict(builder.weights), builder.bases.carrier
    weights["W_E"] = weights["W_E"] + CARRIER * carrier
    group = N_HEADS // N_KEY_VALUE_HEADS
    shared = np.arange(0, N_HEADS, group) + np.zeros((config.n_layers, 1), int)
    for label in (WRITER, ERASER):  # whose values their groups have
        layer, head = head_index(label)
        shared[layer, head // group] = head
    for name in ("W_K", "W_V", "b_K"):
        weights[name] = weights[name][np.arange(config.n_layers)[:, None], shared]
    weights["W_gate"] = builder.reading(*weights["W_in"].shape, std=1.0 / math.sqrt(config.d_model))
    weights["inverse_frequency"] = rng.uniform(0.01, 1.0, (config.n_layers, config.rotary_dim // 2))
    if config.norm_behind:
        _steady(weights, builder, config.d_model)
    tensors = {name: torch.from_numpy(weights[name]) for name in weight_shapes(config)}
    store = builder.bases.stores[0]
    return Planted(config, tensors, WRITER, ERASER, None, fraction, 0.0, "uniform", store, table, "uniform")


def _steady(weights: dict[str, np.ndarray], builder: Builder, d_model: int) -> None:
    """Let a head of each layer write the carrier, as large as the embeddings hold it, and norms keep the sizes of writes."""
    n_layers, carrier = len(weights["W_O"]), builder.bases.carrier[0]
    weights["attn_gain"] = np.full((n_layers, d_model), CARRIER / math.sqrt(d_model))
    weights["mlp_gain"] = np.full((n_layers, d_model), 0.1)
    for layer in range(n_layers):
        held = 1 + layer  # times the carrier is in the stream, which norms divide by
        weights["W_V"][layer] *= held
        reads, writes = np.zeros_like(weights["W_V"][layer, -1]), np.zeros_like(weights["W_O"][layer, _STEADY])
        reads[:, 0], writes[0] = builder.scale * carrier, carrier
        weights["W_V"][layer, -1], weights["W_O"][layer, _STEADY] = reads, writes
        weights["W_O"][layer, _STEADY - 1] = 0.0  # it would write the carrier's constant elsewhere
