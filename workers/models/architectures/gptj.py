"""GPT-J: both sublayers of a block behind one LayerNorm, neighbouring coordinates of queries and keys turned together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import (
    AttentionWeights,
    EndWeights,
    Linear,
    MlpWeights,
    SublayerWeights,
)
from erasure_sweep.workers.models.processing.family import Family, architecture, usual_shape
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer


def _refuse(name: str, hf: Any) -> None:
    refuse_reasons(name, {"no rotary_dim": not hf.rotary_dim}, hf.activation_function)


def _shape(hf: Any) -> ModelConfig:
    return usual_shape(
        hf,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        act_fn=activation(hf.activation_function),
        eps=float(hf.layer_norm_epsilon),
        positions="rotary",
        rotary_dim=hf.rotary_dim,
        parallel=True,
    )


def _ends(stored: StoredTransformer, config: ModelConfig) -> EndWeights:
    steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64) / config.rotary_dim
    return stored.ends(
        "transformer.ln_f", tables={"inverse_frequency": (1.0 / 10_000**steps).expand(config.n_layers, -1)}
    )


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"transformer.h.{layer}."
    norm = stored.affine(f"{block}ln_1")
    query, key, value, out = (stored.linear(f"{block}attn.{name}_proj").weight for name in ("q", "k", "v", "out"))
    query, key = (halves_from_pairs(weight, config) for weight in (query, key))
    yield AttentionWeights(norm, Linear(query), Linear(key), Linear(value), Linear(out))
    enter, leave = (stored.linear(f"{block}mlp.fc_{name}") for name in ("in", "out"))
    yield MlpWeights(norm, enter, leave)


def halves_from_pairs(weight: Tensor, config: ModelConfig) -> Tensor:
    """The coordinates that are turned, first the first of each pair and then the second, as the forward turns them."""
    of_heads = weight.view(len(weight), -1, config.d_head)
    turned, rest = of_heads[..., : config.rotary_dim], of_heads[..., config.rotary_dim :]
    return torch.cat([turned[..., ::2], turned[..., 1::2], rest], dim=-1).flatten(-2)


FAMILY = Family("GPT-J", ("gptj",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
