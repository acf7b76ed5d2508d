"""Folding and centring of weights, as TransformerLens' ``enable_compatibility_mode`` does, the same bits on every machine.

A LayerNorm's weight w and bias b go into what reads it, W' = diag(w) W and b' = b_W + bᵀW, and W' loses its mean over
d_model, which the normalized stream does not have. What writes to the stream loses its mean over d_model, because every
reader's LayerNorm takes it away; the unembedding and its bias lose their mean over the vocabulary, which no softmax sees.
Value biases pass attention unchanged, since patterns sum to one: they go into ``b_O`` through W_O.

Arithmetic is float64, what is kept float32. Sums are taken by adding halves elementwise, an order that neither vector units
nor threads change, and a product is rounded before it is added: the same files give the same bits on every machine.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def folded(
    weight: Float64[Tensor, "d_model out"],
    bias: Float64[Tensor, "out"] | None,
    norm_weight: Float64[Tensor, "d_model"] | None,
    norm_bias: Float64[Tensor, "d_model"] | None,
) -> tuple[Float64[Tensor, "d_model out"], Float64[Tensor, "out"]]:
    """Weights and bias behind a norm that has no parameters of its own any more; None where there were none."""
    found = torch.zeros(weight.shape[1], dtype=torch.float64) if bias is None else bias
    if norm_bias is not None:
        from_norm = ordered_sum(weight * norm_bias[:, None], dim=0).squeeze(0)
        found = from_norm if bias is None else bias + from_norm
    return weight if norm_weight is None else weight * norm_weight[:, None], found


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
