"""Gemma 1, 2 and 3 (of text): as Llama, embeddings scaled, gains stored less one; 2 and 3 with norms behind sublayers, soft
caps, windows, an attention scale of their own, and 3 with normalized queries and keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.architectures import llama
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import SublayerWeights
from erasure_sweep.workers.models.processing.family import Family, architecture
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.rotary import refuse_rotary
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer

_BEHIND = llama.Norms(
    ("input_layernorm", "pre_feedforward_layernorm"), ("post_attention_layernorm", "post_feedforward_layernorm"), 1.0
)


def _refuse(name: str, hf: Any) -> None:
    refuse_rotary(name, hf)
    reasons = {
        "attention that is not causal": getattr(hf, "use_bidirectional_attention", False),
        "biases of attention in front of a norm": hf.attention_bias and hf.model_type != "gemma",
    }
    refuse_reasons(name, reasons, _activation(hf))


def _activation(hf: Any) -> str:
    """Its configs say it under either name, and the first counts."""
    return activation(getattr(hf, "hidden_activation", None) or hf.hidden_act)


def _shape(hf: Any) -> ModelConfig:
    if hf.model_type == "gemma":
        return llama.shape(hf, act_fn=_activation(hf))
    return llama.shape(
        hf,
        act_fn=_activation(hf),
        norm_behind=True,
        attn_scale=math.sqrt(hf.query_pre_attn_scalar),
        score_cap=float(hf.attn_logit_softcapping or 0.0),
        logit_cap=float(hf.final_logit_softcapping or 0.0),
        qk_norm="head" if hf.model_type == "gemma3_text" else "none",
    )


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    return llama.sublayers(stored, config, layer, _BEHIND if config.norm_behind else llama.Norms(offset=1.0))


FAMILY = Family(
    "Gemma", ("gemma", "gemma2", "gemma3_text"), _refuse, _shape, partial(llama.ends, offset=1.0), _sublayers
)
ARCHITECTURE = architecture(FAMILY)
