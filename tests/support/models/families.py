"""A tiny model of each kind that a family has, its files, and its processed weights before they are rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.models.architectures import (
    falcon,
    gemma,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    mixture,
    mpt,
    olmo,
    opt,
    phi,
    qwen,
)
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.family import Family, family_weights
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer, transformers_config
from erasure_sweep.workers.models.sources import ModelFiles, find_model_files
from tests.support.models.transformers_models import random_transformer, write_transformer

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 12}
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
ALTERNATE = ["sliding_attention", "full_attention"]
MODELS: dict[str, tuple[Family, str, dict[str, Any]]] = {
    "llama": (llama.FAMILY, "llama", {}),
    "llama, tied": (llama.FAMILY, "llama", {"tie_word_embeddings": True}),
    "llama, biases": (llama.FAMILY, "llama", {"attention_bias": True, "num_key_value_heads": 4}),
    "llama, wide heads": (llama.FAMILY, "llama", {"head_dim": 10, "num_key_value_heads": 1}),
    "llama 3.1": (
        llama.FAMILY, "llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}},
    ),
    "llama, yarn": (llama.FAMILY, "llama", {"rope_parameters": YARN}),
    "mistral": (llama.FAMILY, "mistral", {"sliding_window": 5}),
    "pythia": (gpt_neox.FAMILY, "gpt_neox", {"hidden_size": 32}),
    "gpt-neox, in sequence": (
        gpt_neox.FAMILY, "gpt_neox", {"hidden_size": 64, "use_parallel_residual": False, "attention_bias": False},
    ),
    "qwen 2": (qwen.FAMILY, "qwen2", {"tie_word_embeddings": True}),
    "qwen 2, windows": (qwen.FAMILY, "qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen 3": (qwen.FAMILY, "qwen3", {"head_dim": 8}),
    "gemma": (gemma.FAMILY, "gemma", {"head_dim": 8}),
    "gemma 2": (
        gemma.FAMILY, "gemma2",
        {"head_dim": 8, "query_pre_attn_scalar": 20, "sliding_window": 7, **CAPS},
    ),
    "gemma 3": (
        gemma.FAMILY, "gemma3_text",
        {"head_dim": 8, "query_pre_attn_scalar": 9, "sliding_window": 4, "layer_types": ALTERNATE},
    ),
    "mixtral": (mixture.FAMILY, "mixtral", {"num_local_experts": 5, "sliding_window": 9}),
    "olmoe": (mixture.FAMILY, "olmoe", {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": False}),
    "qwen 3, experts": (
        mixture.FAMILY, "qwen3_moe",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "norm_topk_prob": True},
    ),
    "olmo": (olmo.FAMILY, "olmo", {}),
    "olmo 2": (olmo.FAMILY, "olmo2", {}),
    "phi": (phi.FAMILY, "phi", {"hidden_size": 32}),
    "phi 3": (phi.FAMILY, "phi3", {"sliding_window": 9}),
    "gpt-2": (gpt2.FAMILY, "gpt2", {"n_inner": 40, "num_key_value_heads": 4}),
    "gpt-neo": (gpt_neo.FAMILY, "gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 6}),
    "gpt-j": (gptj.FAMILY, "gptj", {"rotary_dim": 4}),
    "opt": (opt.FAMILY, "opt", {"ffn_dim": 40, "word_embed_proj_dim": 24}),
    "falcon": (falcon.FAMILY, "falcon", {}),
    "falcon, grouped": (falcon.FAMILY, "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon, in sequence": (falcon.FAMILY, "falcon", {"parallel_attn": False, "multi_query": False}),
    "mpt": (mpt.FAMILY, "mpt", {"n_heads": 3}),
}  # fmt: skip


def files_of(folder: Path, kind: str, seed: int = 1) -> tuple[ModelFiles, Any]:
    """A model's files, and transformers' model."""
    _, model_type, settings = MODELS[kind]
    model = random_transformer(model_type, seed, **settings)
    return find_model_files(str(write_transformer(folder / "m", model))), model


def float64_weights(family: Family, source: ModelFiles) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What is staged, before it is rounded."""
    hf = transformers_config(source.name, source.config)
    config, stored, found = family.shape(hf), StoredTransformer.of_files(source, hf), {}
    for name, layer, values in family_weights(family, stored, config):
        found.setdefault(name, []).append(values) if layer is not None else found.update({name: values})
    return config, {name: torch.stack(of) if isinstance(of, list) else of for name, of in found.items()}
