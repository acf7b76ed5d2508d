"""GPT-NeoX and Pythia: LayerNorm, rotary positions over part of a head, both sublayers of a block reading the same stream."""

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
    refuse_reasons(name, {}, hf.hidden_act)


def _shape(hf: Any) -> ModelConfig:
    return usual_shape(
        hf,
        d_mlp=hf.intermediate_size,
        act_fn=activation(hf.hidden_act),
        eps=float(hf.layer_norm_eps),
        positions="rotary",
        rotary_dim=rotary_dim(hf, hf.hidden_size // hf.num_attention_heads),
        rotary_scale=rotary_scale(hf),
        parallel=bool(hf.use_parallel_residual),
    )


def _ends(stored: StoredTransformer, config: ModelConfig) -> EndWeights:
    return stored.ends("gpt_neox.final_layer_norm", tables=frequencies(config, stored.model.gpt_neox.rotary_emb))


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"gpt_neox.layers.{layer}."
    maps = split_groups(stored.linear(f"{block}attention.query_key_value"), config)
    yield AttentionWeights(stored.affine(f"{block}input_layernorm"), *maps, stored.linear(f"{block}attention.dense"))
    enter, leave = (stored.linear(f"{block}mlp.dense_{name}") for name in ("h_to_4h", "4h_to_h"))
    yield MlpWeights(stored.affine(f"{block}post_attention_layernorm"), enter, leave)


FAMILY = Family("GPT-NeoX", ("gpt_neox",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
