"""GPT-Neo: as GPT-2, scores not divided by anything, and every other layer seeing a window of tokens."""

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
)
from erasure_sweep.workers.models.processing.family import Family, architecture, usual_shape
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer


def _refuse(name: str, hf: Any) -> None:
    refuse_reasons(name, {}, hf.activation_function)


def _shape(hf: Any) -> ModelConfig:
    return usual_shape(
        hf,
        d_mlp=hf.intermediate_size or 4 * hf.hidden_size,
        act_fn=activation(hf.activation_function),
        eps=float(hf.layer_norm_epsilon),
        attn_scale=1.0,
        windows=tuple(hf.window_size if kind == "local" else 0 for kind in hf.attention_layers),
    )


def _ends(stored: StoredTransformer, _config: ModelConfig) -> EndWeights:
    return stored.ends("transformer.ln_f", positions=stored.read("transformer.wpe.weight"))


def _sublayers(stored: StoredTransformer, _config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"transformer.h.{layer}."
    query, key, value, out = (stored.linear(f"{block}attn.attention.{name}_proj") for name in ("q", "k", "v", "out"))
    yield AttentionWeights(stored.affine(f"{block}ln_1"), query, key, value, out)
    enter, leave = (stored.linear(f"{block}mlp.c_{name}") for name in ("fc", "proj"))
    yield MlpWeights(stored.affine(f"{block}ln_2"), enter, leave)


FAMILY = Family("GPT-Neo", ("gpt_neo",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
