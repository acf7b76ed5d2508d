"""From products of queries and keys to attention weights: scale, cap, distance, what may be seen, softmax.

Rotary positions are in queries and keys before they meet (``turn``).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from erasure_sweep.workers.models.model_config import ModelConfig


def turn(
    values: Float[Tensor, "batch pos head d_head"],
    inverse_frequency: Float[Tensor, "half"],
    scale: float,
    first: int,
) -> Float[Tensor, "batch pos head d_head"]:
    """Queries or keys, their leading coordinates turned by position times frequency (Su et al. 2021, "RoFormer").

    Coordinate i of the first half and coordinate i of the second are a pair, as in GPT-NeoX and Llama.

    Args:
        inverse_frequency: radians per position of every pair.
        scale: what cosines and sines are multiplied by.
        first: the position of the first token.
    """
    half = len(inverse_frequency)
    positions = torch.arange(first, first + values.shape[1], device=values.device, dtype=torch.float32)
    angle = (positions[:, None] * inverse_frequency)[:, None]
    cos, sin = ((part * scale).to(values.dtype) for part in (angle.cos(), angle.sin()))
    x, y, rest = values[..., :half], values[..., half : 2 * half], values[..., 2 * half :]
    return torch.cat([x * cos - y * sin, y * cos + x * sin, rest], dim=-1)


def causal_mask(
    positions: Int[Tensor, "token"], n_keys: int, window: int, slopes: Float[Tensor, "head"] | None
) -> Float[Tensor, "*head token key"]:
    """What is added to scores: −∞ where a token may not look, and slope times distance below 0 where there are slopes.

    Args:
        positions: of the query tokens.
        window: how many tokens may be seen, itself included; 0 for all before.
        slopes: of the heads (Press et al. 2022, "ALiBi").
    """
    distance = positions[:, None] - torch.arange(n_keys, device=positions.device)
    unseen = distance < 0
    if window:
        unseen |= distance >= window
    mask = torch.zeros(distance.shape, device=positions.device, dtype=torch.float32 if slopes is None else slopes.dtype)
    mask = mask.masked_fill_(unseen, -torch.inf)
    return mask if slopes is None else mask - slopes[:, None, None] * distance.clamp_min(0)


def weigh(
    config: ModelConfig,
    layer: int,
    products: Float[Tensor, "head token key"],
    positions: Int[Tensor, "token"],
    slopes: Float[Tensor, "head"] | None,
) -> Float[Tensor, "head token key"]:
    """Attention weights of query tokens at the given positions on the keys from position 0 on.

    Args:
        products: of queries and keys.
        slopes: of the heads, where scores fall with distance.
    """
    scores = products / config.attn_scale
    if config.score_cap:
        scores = config.score_cap * torch.tanh(scores / config.score_cap)
    window = config.window(layer)
    if slopes is not None or window:
        scores = scores + causal_mask(positions, scores.shape[-1], window, slopes).to(scores.dtype)
    else:
        future = torch.arange(scores.shape[-1], device=scores.device) > positions[:, None]
        scores = scores.masked_fill_(future, -torch.inf)
    return functional.softmax(scores, dim=-1)
