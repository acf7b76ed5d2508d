"""OPT: as GPT-2, with ReLU, and positions that begin at the third row of their table."""

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

_OFFSET, _EPS = 2, 1e-5
"""Rows of the table in front of position 0; what its LayerNorms add to a variance, which no config says."""


def _refuse(name: str, hf: Any) -> None:
    reasons = {
        "norms behind sublayers": not hf.do_layer_norm_before,
        "no norm in front of the unembedding": getattr(hf, "_remove_final_layer_norm", False),
        "embeddings of another width": hf.word_embed_proj_dim != hf.hidden_size,
    }
    refuse_reasons(name, reasons, hf.activation_function)


def _shape(hf: Any) -> ModelConfig:
    return usual_shape(hf, d_mlp=hf.ffn_dim, act_fn=activation(hf.activation_function), eps=_EPS)


def _ends(stored: StoredTransformer, _config: ModelConfig) -> EndWeights:
    return stored.ends(
        "model.decoder.final_layer_norm", positions=stored.read("model.decoder.embed_positions.weight")[_OFFSET:]
    )


def _sublayers(stored: StoredTransformer, _config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"model.decoder.layers.{layer}."
    query, key, value, out = (stored.linear(f"{block}self_attn.{name}_proj") for name in ("q", "k", "v", "out"))
    yield AttentionWeights(stored.affine(f"{block}self_attn_layer_norm"), query, key, value, out)
    enter, leave = (stored.linear(f"{block}fc{i}") for i in (1, 2))
    yield MlpWeights(stored.affine(f"{block}final_layer_norm"), enter, leave)


FAMILY = Family("OPT", ("opt",), _refuse, _shape, _ends, _sublayers)
ARCHITECTURE = architecture(FAMILY)
