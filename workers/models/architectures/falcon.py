"""Falcon: LayerNorm, rotary positions, few key-value heads, both sublayers of a block reading the same stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import (
    AttentionWeights,
    EndWeights,
    MlpWeights,
    SublayerWeights,
    split_groups,
)
from erasure_sweep.workers.models.processing.family import Family, architecture, usual_shape
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.rotary import frequencies, refuse_rotary, rotary_dim, rotary_scale
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer


def _refuse(name: str, hf: Any) -> None:
    refuse_rotary(name, hf)
    refuse_reasons(name, {"ALiBi positions rounded to bfloat16": hf.alibi}, hf.activation)


def _shape(hf: Any) -> ModelConfig:
    grouped = hf.new_decoder_architecture or not hf.multi_query
    return usual_shape(
        hf,
        n_key_value_heads=hf.num_kv_heads if grouped else 1,
        d_mlp=hf.ffn_hidden_size,
        act_fn=activation(hf.activation),
        eps=float(hf.layer_norm_epsilon),
        positions="rotary",
        rotary_dim=rotary_dim(hf, hf.hidden_size // hf.num_attention_heads),
        rotary_scale=rotary_scale(hf),
        parallel=bool(hf.new_decoder_architecture or hf.parallel_attn),
    )


def _ends(stored: StoredTransformer, config: ModelConfig) -> EndWeights:
    return stored.ends("transformer.ln_f", tables=frequencies(config, stored.model.transformer.rotary_emb))


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"transformer.h.{layer}."
    norms = [name for name in _NORMS if f"{block}{name}.weight" in stored.shapes]
    maps = split_groups(stored.linear(f"{block}self_attention.query_key_value"), config)
    yield AttentionWeights(stored.affine(block + norms[0]), *maps, stored.linear(f"{block}self_attention.dense"))
    enter, leave = (stored.linear(f"{block}mlp.dense_{name}") for name in ("h_to_4h", "4h_to_h"))
    yield MlpWeights(stored.affine(block + norms[-1]), enter, leave)


_NORMS = ("ln_attn", "ln_mlp", "input_layernorm", "post_attention_layernorm")
"""One for both sublayers, or one for each, attention's first."""
FAMILY = Family("Falcon", ("falcon",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
