"""Mixtures of experts: Mixtral, OLMoE and Qwen 3's. As Llama, with several MLPs a layer of which each token takes few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from erasure_sweep.workers.models.architectures import llama
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import ExpertWeights, SublayerWeights
from erasure_sweep.workers.models.processing.family import Family, architecture
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer

_QK_NORM = {"mixtral": "none", "olmoe": "layer", "qwen3_moe": "head"}


def _refuse(name: str, hf: Any) -> None:
    llama.refuse(name, hf)
    reasons = {
        "clipped queries, keys and values": getattr(hf, "clip_qkv", None),
        "layers without experts": getattr(hf, "mlp_only_layers", None) or getattr(hf, "decoder_sparse_step", 1) != 1,
    }
    refuse_reasons(name, reasons, hf.hidden_act)


def _shape(hf: Any) -> ModelConfig:
    return llama.shape(
        hf,
        d_mlp=getattr(hf, "moe_intermediate_size", None) or hf.intermediate_size,
        qk_norm=_QK_NORM[hf.model_type],
        n_experts=getattr(hf, "num_local_experts", None) or hf.num_experts,
        experts_per_token=hf.num_experts_per_tok,
        weigh_to_one=getattr(hf, "norm_topk_prob", True),
    )


def _sublayers(stored: StoredTransformer, config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    yield llama.attention(stored, layer)
    block = f"model.layers.{layer}."
    router = stored.read(f"{block}mlp.gate.weight").T
    gate, enter = stored.read(f"{block}mlp.experts.gate_up_proj").mT.chunk(2, dim=2)
    leave = stored.read(f"{block}mlp.experts.down_proj").mT
    yield ExpertWeights(stored.affine(f"{block}post_attention_layernorm"), router, enter, gate, leave)


FAMILY = Family("Mixture of experts", tuple(_QK_NORM), _refuse, _shape, llama.ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
