"""Literal sublayers of every kind of model, in float64: norms, heads and MLPs, one prompt and one head at a time.

They share nothing with ``workers`` but the names of weights. A head writes at token p

    Σ_j A[p, j] x[j] W_V W_O ∘ gain / s[p],

with gain and scale s of the norm behind its layer, where there is one: so a **weight** of a head is A[p, j] / s[p], and its
output weights are W_O ∘ gain. Query head h reads key and value head h // (heads / key-value heads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import special

from erasure_sweep.workers.models.model_config import ModelConfig

Weights = Mapping[str, np.ndarray]


def centre(config: ModelConfig, vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., d_model] as a norm sees them: LayerNorm removes their mean over d_model, RMSNorm nothing."""
    return vectors - vectors.mean(axis=-1, keepdims=True) if config.norm == "layer" else vectors


def normalize(config: ModelConfig, resid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stream [pos, d_model] behind the final norm, and the scale; the affine part is folded into what reads it."""
    seen = centre(config, resid)
    scale = np.sqrt((seen**2).mean(axis=-1) + config.eps)
    return seen / scale[:, None], scale


def read_stream(config: ModelConfig, resid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a sublayer makes of the stream that it reads, and the scale: the stream itself where no norm is before it."""
    return normalize(config, resid) if config.norm_before else (resid, np.ones(len(resid)))


def place_of(head: str) -> tuple[int, int]:
    """Layer and number of a head."""
    layer, number = head.removeprefix("L").split("H")
    return int(layer), int(number)


def shared(config: ModelConfig, at: tuple[int, int]) -> tuple[int, int]:
    """Layer and number of the key and value head that a head reads."""
    return at[0], at[1] // (config.n_heads // (config.n_key_value_heads or config.n_heads))


def value_weights(config: ModelConfig, w: Weights, at: tuple[int, int]) -> np.ndarray:
    """W_V of a head."""
    return w["W_V"][shared(config, at)]


def output_weights(config: ModelConfig, w: Weights, at: tuple[int, int]) -> np.ndarray:
    """W_O of a head, the gain behind its layer in it."""
    return w["W_O"][at] * w["attn_gain"][at[0]] if config.norm_behind else w["W_O"][at]


def attention(config: ModelConfig, w: Weights, head: str, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Attention [query, key] of a head whose queries and keys read these inputs [pos, d_model]."""
    layer, number = at = place_of(head)
    kv = shared(config, at)
    q, k = queries @ w["W_Q"][at] + w["b_Q"][at], keys @ w["W_K"][kv] + w["b_K"][kv]
    if config.qk_norm != "none":
        whole = config.qk_norm == "layer"
        q_size = [queries @ w["W_Q"][layer, h] + w["b_Q"][layer, h] for h in range(config.n_heads)] if whole else [q]
        k_size = [keys @ w["W_K"][layer, h] + w["b_K"][layer, h] for h in range(w["W_K"].shape[1])] if whole else [k]
        q = q / root_mean_square(np.concatenate(q_size, axis=1), config.eps)[:, None] * w["Q_gain"][at]
        k = k / root_mean_square(np.concatenate(k_size, axis=1), config.eps)[:, None] * w["K_gain"][kv]
    if config.positions == "rotary":
        q, k = (turned(config, w["inverse_frequency"][layer], x) for x in (q, k))
    scores = q @ k.T / config.attn_scale
    if config.score_cap:
        scores = config.score_cap * np.tanh(scores / config.score_cap)
    window = config.windows[layer] if config.windows else 0
    for query in range(len(scores)):
        for key in range(query + 1):
            if config.positions == "alibi":
                scores[query, key] -= w["alibi_slope"][number] * (query - key)
            if window and query - key >= window:
                scores[query, key] = -np.inf
    return causal_softmax(scores)


def root_mean_square(vectors: np.ndarray, eps: float) -> np.ndarray:
    """[pos] of vectors [pos, d]."""
    return np.sqrt((vectors**2).mean(axis=-1) + eps)


def turned(config: ModelConfig, inverse_frequency: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Queries or keys [pos, d_head]: coordinate i of the first half and of the second are a complex number that is turned.

    Every family works out angles, cosines and sines in float32, whatever the rest is, so that is what they are.
    """
    half = config.rotary_dim // 2
    found = vectors.copy()
    for position in range(len(vectors)):
        angle = torch.tensor(position, dtype=torch.float32) * torch.tensor(inverse_frequency, dtype=torch.float32)
        for i in range(half):
            cos, sin = float(angle.cos()[i] * config.rotary_scale), float(angle.sin()[i] * config.rotary_scale)
            number = complex(vectors[position, i], vectors[position, half + i]) * complex(cos, sin)
            found[position, i], found[position, half + i] = number.real, number.imag
    return found


def causal_softmax(scores: np.ndarray) -> np.ndarray:
    """Attention pattern [query, key] from scores, one query at a time over the keys up to it."""
    pattern = np.zeros_like(scores)
    for query in range(len(scores)):
        visible = scores[query, : query + 1]
        weight = np.exp(visible - visible.max())
        pattern[query, : query + 1] = weight / weight.sum()
    return pattern


def layer_heads(
    config: ModelConfig, w: Weights, layer: int, x: np.ndarray, unseen: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Outputs [pos, d_model] and weights [query, key] of all heads of a layer, and the scale of the norm behind it [pos].

    Args:
        x: what the layer reads.
        unseen: by head, what is subtracted from what its values see.
    """
    patterns, plain = {}, {}
    for number in range(config.n_heads):
        head = f"L{layer}H{number}"
        patterns[head] = attention(config, w, head, x, x)
        values = (x - (unseen or {}).get(head, 0.0)) @ value_weights(config, w, (layer, number))
        plain[head] = patterns[head] @ values @ w["W_O"][layer, number]
    scale = np.ones(len(x))
    if config.norm_behind:
        scale = root_mean_square(np.sum(list(plain.values()), axis=0), config.eps)
        gain = w["attn_gain"][layer]
        plain = {head: output * gain / scale[:, None] for head, output in plain.items()}
    return plain, {head: pattern / scale[:, None] for head, pattern in patterns.items()}, scale


def run_head(
    config: ModelConfig,
    w: Weights,
    head: str,
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    write_scale: np.ndarray,
) -> np.ndarray:
    """Output [pos, d_model] of a head from the inputs [pos, d_model] of its q, k and v, over a scale [pos] behind it."""
    weights = attention(config, w, head, queries, keys) / write_scale[:, None]
    return written_by(config, w, head, weights, values)


def written_by(config: ModelConfig, w: Weights, head: str, weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """What a head writes [pos, d_model] because its values see this [pos, d_model], with its weights [query, key]."""
    at = place_of(head)
    return weights @ (seen @ value_weights(config, w, at)) @ output_weights(config, w, at)


def run_mlp(config: ModelConfig, w: Weights, layer: int, stream: np.ndarray) -> np.ndarray:
    """Output [pos, d_model] of an MLP that reads a stream [pos, d_model]."""
    written = neurons(config, w, layer, read_stream(config, stream)[0])
    return behind_mlp(config, w, layer, written, written)


def behind_mlp(config: ModelConfig, w: Weights, layer: int, written: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """What an MLP writes [pos, d_model] behind the norm that is behind it, at the scale of what it writes in the clean run."""
    if not config.norm_behind:
        return written
    return written * w["mlp_gain"][layer] / root_mean_square(clean, config.eps)[:, None]


def neurons(config: ModelConfig, w: Weights, layer: int, x: np.ndarray) -> np.ndarray:
    """What an MLP makes of what it reads; SoLU's neurons are normalised once more before they are read."""
    if config.n_experts:
        return np.stack([experts(config, w, layer, vector) for vector in x])
    entering = x @ w["W_in"][layer] + w["b_in"][layer]
    gate = x @ w["W_gate"][layer] if config.gated_mlp else entering
    hidden = activate(config.act_fn, gate) * (entering if config.gated_mlp else 1.0)
    if config.act_fn == "solu_ln":
        apart = hidden - hidden.mean(axis=-1, keepdims=True)
        hidden = apart / root_mean_square(apart, config.eps)[:, None]
    return hidden @ w["W_out"][layer] + w["b_out"][layer]


def experts(config: ModelConfig, w: Weights, layer: int, x: np.ndarray) -> np.ndarray:
    """What those experts make of one token's input [d_model] that its router gives the most weight."""
    scores = x @ w["W_router"][layer]
    likings = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    chosen = sorted(range(config.n_experts), key=lambda expert: -likings[expert])[: config.experts_per_token]
    total = sum(likings[expert] for expert in chosen) if config.weigh_to_one else 1.0
    written = np.zeros(config.d_model)
    for expert in chosen:
        hidden = activate(config.act_fn, x @ w["W_gate"][layer, expert]) * (x @ w["W_in"][layer, expert])
        written += likings[expert] / total * (hidden @ w["W_out"][layer, expert])
    return written


def activate(name: str, x: np.ndarray) -> np.ndarray:
    """The MLP's nonlinearity, from its formula."""
    if name == "gelu":
        return 0.5 * x * (1.0 + special.erf(x / math.sqrt(2.0)))
    if name == "gelu_new":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "silu":
        return x / (1.0 + np.exp(-x))
    if name == "solu_ln":
        weight = np.exp(x - x.max(axis=-1, keepdims=True))
        return x * weight / weight.sum(axis=-1, keepdims=True)
    raise ValueError(f"the oracle has no activation {name!r}")


def embeddings(config: ModelConfig, w: Weights, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """The terms before the first layer [pos, d_model]."""
    found = {"embed": w["W_E"][list(ids)]}
    return found | ({"pos_embed": w["W_pos"][: len(ids)].copy()} if config.positions == "learned" else {})


def biases(config: ModelConfig, w: Weights, layer: int, n: int) -> dict[str, np.ndarray]:
    """What an attention layer writes beside its heads [pos, d_model], if anything."""
    return {f"b_O{layer}": np.tile(w["b_O"][layer], (n, 1))} if config.attn_bias else {}


def uncapped_logits(config: ModelConfig, w: Weights, final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [pos, d_vocab] of a final state before any cap, and the final scale [pos]."""
    x, scale = normalize(config, final)
    return x @ w["W_U"] + w["b_U"], scale


def capped(config: ModelConfig, logits: np.ndarray) -> np.ndarray:
    """Logits as the model gives them out."""
    return config.logit_cap * np.tanh(logits / config.logit_cap) if config.logit_cap else logits
