"""Phi 1 to 3: first with LayerNorm and both sublayers of a block behind one norm, then as Llama, its maps fused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from erasure_sweep.workers.models.architectures import llama
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import (
    AttentionWeights,
    EndWeights,
    Linear,
    MlpWeights,
    SublayerWeights,
)
from erasure_sweep.workers.models.processing.family import Family, architecture
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.rotary import frequencies, refuse_rotary
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer


def _refuse(name: str, hf: Any) -> None:
    refuse_rotary(name, hf)
    refuse_reasons(name, {"normalized queries and keys": getattr(hf, "qk_layernorm", False)}, hf.hidden_act)


def _shape(hf: Any) -> ModelConfig:
    if hf.model_type == "phi3":
        return llama.shape(hf)
    eps = float(hf.layer_norm_eps)
    return llama.shape(hf, eps=eps, norm="layer", gated_mlp=False, parallel=True, attn_bias=True)


def _ends(stored: StoredTransformer, config: ModelConfig) -> EndWeights:
    model = stored.model.model
    return stored.ends(
        "model.norm" if hasattr(model, "norm") else "model.final_layernorm",
        tables=frequencies(config, model.rotary_emb),
    )


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"model.layers.{layer}."
    norm = stored.affine(f"{block}input_layernorm")
    if not config.gated_mlp:
        query, key, value, out = (stored.linear(f"{block}self_attn.{name}") for name in _MAPS)
        yield AttentionWeights(norm, query, key, value, out)
        enter, leave = (stored.linear(f"{block}mlp.fc{i}") for i in (1, 2))
        yield MlpWeights(norm, enter, leave)
        return
    sizes = [n * config.d_head for n in (config.n_heads, config.n_kv_heads, config.n_kv_heads)]
    fused = torch.split(stored.linear(f"{block}self_attn.qkv_proj").weight, sizes, dim=1)
    query, key, value = (Linear(part) for part in fused)
    yield AttentionWeights(norm, query, key, value, stored.linear(f"{block}self_attn.o_proj"))
    gate, enter = (Linear(part) for part in stored.linear(f"{block}mlp.gate_up_proj").weight.chunk(2, dim=1))
    norm = stored.affine(f"{block}post_attention_layernorm")
    yield MlpWeights(norm, enter, stored.linear(f"{block}mlp.down_proj"), gate)


_MAPS = ("q_proj", "k_proj", "v_proj", "dense")
FAMILY = Family("Phi", ("phi", "phi3"), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
