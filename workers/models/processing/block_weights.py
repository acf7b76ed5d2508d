"""Blocks of any family → processed weights: a family says which tensor is which, norms and biases are folded here.

A LayerNorm's parameters go into what reads it, and means that it takes away are removed (``folding``); of an RMSNorm the gain
goes into what reads it, and nothing is centred. Value biases go into ``b_O`` through W_O, since attention weights sum to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.folding import centred, folded, ordered_sum


class Affine(NamedTuple):
    """What a norm does behind dividing; nothing where it has no such parameters."""

    weight: Float64[Tensor, "d"] | None = None
    bias: Float64[Tensor, "d"] | None = None


class Linear(NamedTuple):
    """A map of rows."""

    weight: Float64[Tensor, "into out"]
    bias: Float64[Tensor, "out"] | None = None


class AttentionWeights(NamedTuple):
    """An attention layer; heads lie one behind the other."""

    norm: Affine
    """Of the norm in front of it."""
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    query_gain: Float64[Tensor, "_"] | None = None
    """Of the norm of queries, of one head for all or of all."""
    key_gain: Float64[Tensor, "_"] | None = None
    behind: Float64[Tensor, "d_model"] | None = None
    """Gain of the norm behind it."""


class MlpWeights(NamedTuple):
    """An MLP."""

    norm: Affine
    enter: Linear
    leave: Linear
    gate: Linear | None = None
    behind: Float64[Tensor, "d_model"] | None = None


class ExpertWeights(NamedTuple):
    """The MLPs of a layer of which each token goes through few, all gated and without biases."""

    norm: Affine
    router: Float64[Tensor, "d_model expert"]
    enter: Float64[Tensor, "expert d_model d_mlp"]
    gate: Float64[Tensor, "expert d_model d_mlp"]
    leave: Float64[Tensor, "expert d_mlp d_model"]


SublayerWeights = AttentionWeights | MlpWeights | ExpertWeights


class EndWeights(NamedTuple):
    """What stands before and behind the blocks."""

    embed: Float64[Tensor, "d_vocab d_model"]
    norm: Affine
    unembed: Linear
    positions: Float64[Tensor, "n_ctx d_model"] | None = None
    tables: Mapping[str, Float[Tensor, "*shape"]] = {}
    """Frequencies and slopes, as ``weight_shapes`` names them."""


class ProcessedWeight(NamedTuple):
    """A processed weight, or one layer of it."""

    name: str
    layer: int | None
    """None for weights that are not stacked by layer."""
    values: Float64[Tensor, "*shape"]


def split_groups(weights: Linear, config: ModelConfig) -> tuple[Linear, Linear, Linear]:
    """Queries, keys and values from one map in which every group's queries lie together with its key and its value."""
    n_groups, d_head = config.n_kv_heads, config.d_head

    def split(values: Float64[Tensor, "*into out"]) -> list[Tensor]:
        of_groups = values.view(*values.shape[:-1], n_groups, -1, d_head)
        sides = of_groups[..., :-2, :], of_groups[..., -2, :], of_groups[..., -1, :]
        return [side.flatten(values.ndim - 1) for side in sides]

    biases = [None] * 3 if weights.bias is None else split(weights.bias)
    query, key, value = (Linear(*part) for part in zip(split(weights.weight), biases, strict=True))
    return query, key, value


def processed(
    config: ModelConfig,
    ends: EndWeights,
    blocks: Iterable[Iterable[SublayerWeights]],
) -> Iterator[ProcessedWeight]:
    """The processed weights of a model, under the names and in the shapes of ``weight_shapes``.

    Args:
        ends: its embeddings and unembedding.
        blocks: the sublayers of each layer, in the order of layers.
    """
    yield ProcessedWeight("W_E", None, _to_stream(config, ends.embed))
    if ends.positions is not None:
        yield ProcessedWeight("W_pos", None, _to_stream(config, ends.positions))
    for name, values in ends.tables.items():
        yield ProcessedWeight(name, None, values.double())
    for layer, sublayers in enumerate(blocks):
        for sublayer in sublayers:
            for name, values in _of_sublayer(config, sublayer).items():
                yield ProcessedWeight(name, layer, values)
    w_u, b_u = _from_stream(config, ends.unembed, ends.norm)
    if not config.logit_cap:  # a softmax sees no mean over the vocabulary, a cap does
        w_u, b_u = centred(w_u, dim=1), centred(b_u, dim=0)
    yield ProcessedWeight("W_U", None, w_u)
    yield ProcessedWeight("b_U", None, b_u)


def _from_stream(config: ModelConfig, weights: Linear, norm: Affine) -> tuple[Tensor, Tensor]:
    """Weight and bias of what reads the stream through a norm, which is then without parameters."""
    weight, bias = folded(*weights, *norm)
    return centred(weight, dim=0) if config.norm == "layer" else weight, bias


def _to_stream(config: ModelConfig, values: Float64[Tensor, "*into d_model"]) -> Tensor:
    """What writes to the stream, without the mean that readers take away."""
    return centred(values, dim=values.ndim - 1) if config.norm == "layer" else values


def _of_sublayer(config: ModelConfig, weights: SublayerWeights) -> dict[str, Tensor]:
    if isinstance(weights, AttentionWeights):
        return _attention(config, weights)
    return _mlp(config, weights) if isinstance(weights, MlpWeights) else _experts(config, weights)


def _attention(config: ModelConfig, weights: AttentionWeights) -> dict[str, Tensor]:
    """One attention layer's processed weights."""
    heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
    found, biases = {}, {}
    for name, part in (("Q", weights.query), ("K", weights.key), ("V", weights.value)):
        weight, bias = _from_stream(config, part, weights.norm)
        found[f"W_{name}"] = weight.view(d_model, -1, d_head).permute(1, 0, 2)
        biases[name] = bias.view(-1, d_head)
    found |= {"b_Q": biases["Q"], "b_K": biases["K"]}
    for name, gain, n in (("Q", weights.query_gain, heads), ("K", weights.key_gain, config.n_kv_heads)):
        found |= {} if gain is None else {f"{name}_gain": gain.view(-1, d_head).expand(n, d_head)}
    w_o = _to_stream(config, weights.out.weight)
    found |= {"W_O": w_o.view(heads, d_head, d_model)}
    if config.attn_bias:
        from_values = biases["V"].repeat_interleave(heads // config.n_kv_heads, dim=0).reshape(-1, 1) * w_o
        b_o = ordered_sum(from_values, dim=0).squeeze(0)
        found |= {"b_O": b_o if weights.out.bias is None else _to_stream(config, weights.out.bias) + b_o}
    elif biases["V"].any():
        raise ValueError("values have a constant, and what attention layers write has none")
    return found | ({} if weights.behind is None else {"attn_gain": weights.behind})


def _mlp(config: ModelConfig, weights: MlpWeights) -> dict[str, Tensor]:
    """One MLP's processed weights."""
    w_in, b_in = _from_stream(config, weights.enter, weights.norm)
    found = {"W_in": w_in, "b_in": b_in}
    if weights.gate is not None:
        found["W_gate"], constant = _from_stream(config, weights.gate, weights.norm)
        if constant.any():
            raise ValueError("a gate with a constant")
    bias = weights.leave.bias
    b_out = torch.zeros(config.d_model, dtype=torch.float64) if bias is None else _to_stream(config, bias)
    found |= {"W_out": _to_stream(config, weights.leave.weight), "b_out": b_out}
    return found | ({} if weights.behind is None else {"mlp_gain": weights.behind})


def _experts(config: ModelConfig, weights: ExpertWeights) -> dict[str, Tensor]:
    """The processed weights of a layer of experts, an RMSNorm before them."""
    if config.norm != "rms":
        raise ValueError("experts behind a norm that is no RMSNorm")
    gain = 1.0 if weights.norm.weight is None else weights.norm.weight[:, None]
    found = {"W_router": weights.router * gain, "W_in": weights.enter * gain, "W_gate": weights.gate * gain}
    return found | {"W_out": weights.leave}
