"""GPT-2's weights → processed weights, a layer at a time, as TransformerLens' ``enable_compatibility_mode`` makes them.

A LayerNorm's weight w and bias b go into what reads it, W' = diag(w) W and b' = b_W + bᵀW, and W' loses its mean over
d_model, which the normalized stream does not have. What writes to the stream loses its mean over d_model, because every
reader's LayerNorm takes it away; the unembedding and its bias lose their mean over the vocabulary, which no softmax sees.
Value biases pass attention unchanged, since patterns sum to one: they go into ``b_O`` through W_O.

Arithmetic is float64, what is kept float32. Sums are taken by adding halves elementwise, an order that neither vector units
nor threads change, and a product is rounded before it is added: the same files give the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxtyping import Float32, Float64
from torch import Tensor

from erasure_sweep.workers.models.forward import ModelConfig

Read = Callable[[str], Tensor]
"""A tensor in float64, by transformers' name."""


class Part(NamedTuple):
    """A processed weight, or one layer of it."""

    name: str
    layer: int | None
    """None for weights that are not stacked by layer."""
    values: Float32[Tensor, "*shape"]


def processed_gpt2(read: Read, config: ModelConfig) -> Iterator[Part]:
    """The processed weights of a GPT-2, under the names and in the shapes of ``weight_shapes``.

    Args:
        read: of the model's files.
        config: its architecture.
    """
    yield Part("W_E", None, centred(read("transformer.wte.weight"), dim=1).float())
    yield Part("W_pos", None, centred(read("transformer.wpe.weight"), dim=1).float())
    for layer in range(config.n_layers):
        block = f"transformer.h.{layer}."
        for name, values in {**_attention(read, block, config), **_mlp(read, block)}.items():
            yield Part(name, layer, values.float())
    w_u, b_u = folded(read("lm_head.weight").T, None, read("transformer.ln_f.weight"), read("transformer.ln_f.bias"))
    yield Part("W_U", None, centred(w_u, dim=1).float())
    yield Part("b_U", None, centred(b_u, dim=0).float())


def _attention(read: Read, block: str, config: ModelConfig) -> dict[str, Tensor]:
    """One attention layer's processed weights; queries, keys and values lie side by side in the file."""
    heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
    norm = read(f"{block}ln_1.weight"), read(f"{block}ln_1.bias")
    weight, bias = folded(read(f"{block}attn.c_attn.weight"), read(f"{block}attn.c_attn.bias"), *norm)
    w = dict(zip("QKV", weight.view(d_model, 3, heads, d_head).permute(1, 2, 0, 3), strict=True))
    b = dict(zip("QKV", bias.view(3, heads, d_head), strict=True))
    w_o = centred(read(f"{block}attn.c_proj.weight"), dim=1)
    from_values = ordered_sum(b["V"].reshape(-1, 1) * w_o, dim=0).squeeze(0)
    b_o = centred(read(f"{block}attn.c_proj.bias"), dim=0) + from_values
    read_out = {f"W_{name}": values for name, values in w.items()} | {"b_Q": b["Q"], "b_K": b["K"]}
    return read_out | {"W_O": w_o.view(heads, d_head, d_model), "b_O": b_o}


def _mlp(read: Read, block: str) -> dict[str, Tensor]:
    """One MLP's processed weights."""
    norm = read(f"{block}ln_2.weight"), read(f"{block}ln_2.bias")
    w_in, b_in = folded(read(f"{block}mlp.c_fc.weight"), read(f"{block}mlp.c_fc.bias"), *norm)
    w_out, b_out = centred(read(f"{block}mlp.c_proj.weight"), dim=1), centred(read(f"{block}mlp.c_proj.bias"), dim=0)
    return {"W_in": w_in, "b_in": b_in, "W_out": w_out, "b_out": b_out}


def folded(
    weight: Float64[Tensor, "d_model out"],
    bias: Float64[Tensor, "out"] | None,
    norm_weight: Float64[Tensor, "d_model"],
    norm_bias: Float64[Tensor, "d_model"],
) -> tuple[Float64[Tensor, "d_model out"], Float64[Tensor, "out"]]:
    """Weights and bias behind a LayerNorm that has no parameters of its own any more."""
    from_norm = ordered_sum(weight * norm_bias[:, None], dim=0).squeeze(0)
    return centred(weight * norm_weight[:, None], dim=0), from_norm if bias is None else bias + from_norm


def centred(values: Float64[Tensor, "*shape"], dim: int) -> Float64[Tensor, "*shape"]:
    """Values without their mean along a dimension."""
    return values - ordered_sum(values, dim) / values.shape[dim]


def ordered_sum(values: Float64[Tensor, "*shape"], dim: int) -> Float64[Tensor, "*kept"]:
    """Sum along a dimension, which stays with size one; the order of additions depends on its size alone."""
    while (size := values.shape[dim]) > 1:
        half = size // 2
        added = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        if size % 2:
            added.narrow(dim, 0, 1).add_(values.narrow(dim, size - 1, 1))
        values = added
    return values
