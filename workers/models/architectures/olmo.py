"""OLMo 1 and 2: as Llama, with a LayerNorm that has no parameters (1), or with norms behind sublayers alone (2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from erasure_sweep.workers.models.architectures import llama
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import SublayerWeights
from erasure_sweep.workers.models.processing.family import Family, architecture
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.rotary import refuse_rotary
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer

_EPS = 1e-5
"""Of OLMo 1's LayerNorm, whose config does not say it."""
_BEHIND = llama.Norms(None, ("post_attention_layernorm", "post_feedforward_layernorm"))


def _refuse(name: str, hf: Any) -> None:
    refuse_rotary(name, hf)
    reasons = {
        "clipped queries, keys and values": getattr(hf, "clip_qkv", None),
        "biases of attention in front of a norm": hf.attention_bias and hf.model_type == "olmo2",
    }
    refuse_reasons(name, reasons, hf.hidden_act)


def _shape(hf: Any) -> ModelConfig:
    if hf.model_type == "olmo":
        return llama.shape(hf, norm="layer", eps=_EPS)
    return llama.shape(hf, norm_before=False, norm_behind=True, qk_norm="layer")


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    return llama.sublayers(stored, config, layer, _BEHIND if config.norm_behind else llama.NORMS)


FAMILY = Family("OLMo", ("olmo", "olmo2"), _refuse, _shape, llama.ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
