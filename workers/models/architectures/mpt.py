"""MPT: LayerNorm without bias, scores that fall with distance (ALiBi)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    attention = hf.attn_config
    reasons = {
        "positions other than ALiBi": not attention.alibi,
        "clipped queries, keys and values": attention.clip_qkv,
        "normalized queries and keys": attention.qk_ln,
        "attention that is not causal": attention.prefix_lm,
        "scaled logits": hf.logit_scale,
    }
    refuse_reasons(name, reasons, "gelu")


def _shape(hf: Any) -> ModelConfig:
    scale = hf.attn_config.softmax_scale
    return usual_shape(
        hf,
        d_mlp=4 * hf.hidden_size,
        n_ctx=hf.max_seq_len,
        act_fn=activation("gelu"),
        eps=float(hf.layer_norm_epsilon),
        positions="alibi",
        attn_bias=False,
        **({"attn_scale": 1.0 / scale} if scale else {}),
    )


def _ends(stored: StoredTransformer, config: ModelConfig) -> EndWeights:
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    # What is added to the scores of two tokens' distance of one.
    slopes = -build_mpt_alibi_tensor(config.n_heads, 2, stored.model.config.attn_config.alibi_bias_max)[:, 0, 0]
    return stored.ends("transformer.norm_f", tables={"alibi_slope": slopes})


def _sublayers(stored: StoredTransformer, _config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"transformer.blocks.{layer}."
    query, key, value = (Linear(part) for part in stored.linear(f"{block}attn.Wqkv").weight.chunk(3, dim=1))
    out = stored.linear(f"{block}attn.out_proj")
    yield AttentionWeights(stored.affine(f"{block}norm_1"), query, key, value, out)
    enter, leave = (stored.linear(f"{block}ffn.{name}_proj") for name in ("up", "down"))
    yield MlpWeights(stored.affine(f"{block}norm_2"), enter, leave)


FAMILY = Family("MPT", ("mpt",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
