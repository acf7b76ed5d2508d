"""Literal reruns for the oracle of verify, in float64: the whole forward pass again, from an edited stream or edited values.

Two edits are possible, and everything behind them is computed anew, each layer with its own pattern and scale:

- something is added to the stream at a state, right after the sublayer that makes it;
- something is subtracted from what a head's values see: its value input is LN(resid_pre) − edit, while its queries, its
  keys and every other reader see LN(resid_pre).

Beside them a single head run from inputs given apart for queries, keys and values, and a single MLP run from a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from erasure_sweep.workers.models.forward import ModelConfig
from tests.support.oracle.scan import Activations, causal_softmax, layer_norm, layer_of_head, mlp_out

Weights = Mapping[str, np.ndarray]


def centre(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., d_model] without their mean over d_model."""
    return vectors - vectors.mean(axis=-1, keepdims=True)


def place_of(head: str) -> tuple[int, int]:
    """Layer and number of a head."""
    return layer_of_head(head), int(head.split("H")[1])


def run_head(
    config: ModelConfig, w: Weights, head: str, queries: np.ndarray, keys: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Output [pos, d_model] and pattern of a head from the normalised inputs [pos, d_model] of its q, k and v."""
    at = place_of(head)
    q, k = queries @ w["W_Q"][at] + w["b_Q"][at], keys @ w["W_K"][at] + w["b_K"][at]
    pattern = causal_softmax(q @ k.T / config.attn_scale)
    return pattern @ (values @ w["W_V"][at]) @ w["W_O"][at], pattern


def run_mlp(config: ModelConfig, w: Weights, layer: int, stream: np.ndarray) -> np.ndarray:
    """Output [pos, d_model] of an MLP that reads a stream [pos, d_model]."""
    x, _ = layer_norm(stream, config.eps)
    return mlp_out(config, w, layer, x)


def rerun(
    config: ModelConfig,
    w: Weights,
    tokens: Sequence[int],
    added: Mapping[str, np.ndarray] | None = None,
    unseen: Mapping[str, np.ndarray] | None = None,
) -> Activations:
    """Run the model over one prompt with edits; without any it is ``tests.support.oracle.scan.forward``.

    Args:
        config, w: the processed model in float64.
        tokens: ids.
        added: by state, what is added to the stream there [pos, d_model]; it is part of the state, and of no term.
        unseen: by head, what is subtracted from its normalised value input [pos, d_model].
    """
    added, unseen = added or {}, unseen or {}
    ids = [int(token) for token in tokens]
    terms = {"embed": w["W_E"][ids], "pos_embed": w["W_pos"][: len(ids)].copy()}
    states: dict[str, np.ndarray] = {}
    last_term: dict[str, str] = {}

    def pass_state(name: str, stream: np.ndarray) -> np.ndarray:
        states[name] = stream + added[name] if name in added else stream
        last_term[name] = next(reversed(terms))
        return states[name]

    resid = pass_state("resid_pre0", terms["embed"] + terms["pos_embed"])
    attention, patterns, ln1_scales, ln2_scales = {}, {}, [], []
    for layer in range(config.n_layers):
        x, scale = layer_norm(resid, config.eps)
        ln1_scales.append(scale)
        summed = np.zeros_like(resid)
        for number in range(config.n_heads):
            head = f"L{layer}H{number}"
            terms[head], patterns[head] = run_head(config, w, head, x, x, x - unseen.get(head, 0.0))
            summed = summed + terms[head]
        terms[f"b_O{layer}"] = np.tile(w["b_O"][layer], (len(ids), 1))
        attention[f"attn{layer}"] = summed + terms[f"b_O{layer}"]
        resid = resid + attention[f"attn{layer}"]
        if config.attn_only:
            resid = pass_state(f"resid_post{layer}", resid)
            continue
        resid = pass_state(f"resid_mid{layer}", resid)
        ln2_scales.append(layer_norm(resid, config.eps)[1])
        terms[f"MLP{layer}"] = run_mlp(config, w, layer, resid)
        resid = pass_state(f"resid_post{layer}", resid + terms[f"MLP{layer}"])
    x, final_scale = layer_norm(resid, config.eps)
    logits = x @ w["W_U"] + w["b_U"]
    return Activations(terms, attention, states, last_term, patterns, ln1_scales, ln2_scales, final_scale, logits)
