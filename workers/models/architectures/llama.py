"""Llama and its kin: Mistral, SmolLM, TinyLlama, Yi. RMSNorm, rotary positions, grouped value heads, a gated MLP.

Files of families that differ from it in little read their weights through ``sublayers`` and ``ends``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import (
    Affine,
    AttentionWeights,
    EndWeights,
    MlpWeights,
    SublayerWeights,
)
from erasure_sweep.workers.models.processing.family import Family, architecture, usual_shape
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.rotary import frequencies, refuse_rotary, rotary_dim, rotary_scale
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer


def refuse(name: str, hf: Any) -> None:
    """What the forward cannot express."""
    refuse_rotary(name, hf)
    refuse_reasons(name, {"a bias in its gated MLP": getattr(hf, "mlp_bias", False)}, hf.hidden_act)


def shape(hf: Any, **changes: Any) -> ModelConfig:
    """The architecture; what else a family has is changed."""
    d_head = head_size(hf)
    said = {
        "n_key_value_heads": hf.num_key_value_heads,
        "d_head": d_head,
        "d_mlp": hf.intermediate_size,
        "act_fn": activation(getattr(hf, "hidden_act", None)),
        "eps": float(getattr(hf, "rms_norm_eps", 0.0)),
        "norm": "rms",
        "positions": "rotary",
        "rotary_dim": rotary_dim(hf, d_head),
        "rotary_scale": rotary_scale(hf),
        "gated_mlp": True,
        "attn_bias": bool(getattr(hf, "attention_bias", False)),
        "windows": windows(hf),
    }
    return usual_shape(hf, **(said | changes))


def head_size(hf: Any) -> int:
    """Coordinates of a head."""
    return int(getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads)


def windows(hf: Any) -> tuple[int, ...]:
    """How many tokens each layer attends to; empty where all layers attend to all."""
    size = getattr(hf, "sliding_window", None)
    if not size:
        return ()
    kinds = getattr(hf, "layer_types", None) or ["sliding_attention"] * hf.num_hidden_layers
    found = tuple(size if kind == "sliding_attention" else 0 for kind in kinds)
    return found if any(found) else ()


def ends(stored: StoredTransformer, config: ModelConfig, *, offset: float = 0.0) -> EndWeights:
    """Embedding, final norm, unembedding, frequencies.

    Args:
        offset: what is added to gains of norms.
    """
    model = stored.model.model
    found = stored.ends("model.norm", offset=offset, tables=frequencies(config, model.rotary_emb))
    return found._replace(embed=found.embed * float(getattr(model.embed_tokens, "embed_scale", 1.0)))


class Norms(NamedTuple):
    """Names of a block's norms, of attention and of the MLP; none where nothing is normalized."""

    in_front: tuple[str, str] | None = ("input_layernorm", "post_attention_layernorm")
    behind: tuple[str, str] | None = None
    offset: float = 0.0
    """What is added to their gains."""


NORMS = Norms()


def sublayers(
    stored: StoredTransformer, _config: ModelConfig, layer: int, norms: Norms = NORMS
) -> Iterator[SublayerWeights]:
    """Of one layer, attention first."""
    yield attention(stored, layer, norms)
    block = f"model.layers.{layer}."
    in_front, behind = _norms(stored, block, norms, 1)
    enter, leave, gate = (stored.linear(f"{block}mlp.{name}_proj") for name in ("up", "down", "gate"))
    yield MlpWeights(in_front, enter, leave, gate, behind)


def attention(stored: StoredTransformer, layer: int, norms: Norms = NORMS) -> AttentionWeights:
    """The attention layer of a block."""
    block, offset = f"model.layers.{layer}.", norms.offset
    in_front, behind = _norms(stored, block, norms, 0)
    query, key, value, out = (stored.linear(f"{block}self_attn.{name}_proj") for name in "qkvo")
    gain_q, gain_k = (stored.affine(f"{block}self_attn.{name}_norm", offset).weight for name in "qk")
    return AttentionWeights(in_front, query, key, value, out, gain_q, gain_k, behind)


def _norms(stored: StoredTransformer, block: str, norms: Norms, which: int) -> tuple[Affine, Tensor | None]:
    """The norm in front of a sublayer and the gain behind it, as far as there are such."""
    in_front = stored.affine(block + norms.in_front[which], norms.offset) if norms.in_front else Affine()
    return in_front, stored.affine(block + norms.behind[which], norms.offset).weight if norms.behind else None


FAMILY = Family("Llama", ("llama", "mistral"), refuse, shape, ends, sublayers)
ARCHITECTURE = architecture(FAMILY)
