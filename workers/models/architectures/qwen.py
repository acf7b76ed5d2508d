"""Qwen 2, 2.5 and 3: as Llama, with biases of queries, keys and values (2), or normalized queries and keys (3)."""

from __future__ import annotations

from typing import Any

from erasure_sweep.workers.models.architectures import llama
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.family import Family, architecture


def _shape(hf: Any) -> ModelConfig:
    if hf.model_type == "qwen2":  # its value biases are a constant that attention layers write
        return llama.shape(hf, attn_bias=True)
    return llama.shape(hf, qk_norm="head")


FAMILY = Family("Qwen", ("qwen2", "qwen3"), llama.refuse, _shape, llama.ends, llama.sublayers)
ARCHITECTURE = architecture(FAMILY)
