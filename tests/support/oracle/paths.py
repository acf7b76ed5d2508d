"""The literal oracle of all attention paths, in float64: a rerun without a vector, patterns, scales and MLPs kept.

The stream loses ``removed`` right behind the writer's sublayer. Every later head runs on what is left, with its clean pattern
and the clean scale of its LayerNorm; MLPs and biases add what they add in the clean run. What the clean run has and the rerun
has not is δ: of the stream, what became of ``removed``; of a head, what it adds to δ.

- ``erased`` = 1 − β(δ at the end, w); a head's share = −β(its part of δ, w).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.models.forward import ModelConfig
from tests.support.oracle.scan import Activations, layer_of_head


class Lost(NamedTuple):
    """What a rerun lacks of the clean run."""

    stream: np.ndarray
    """Of the final state, [pos, d_model]."""
    heads: dict[str, np.ndarray]
    """Of each later head's output."""


def rerun_without(
    config: ModelConfig,
    w: Mapping[str, np.ndarray],
    run: Activations,
    writer: str,
    removed: np.ndarray,
    through: tuple[str, ...] | None = None,
) -> Lost:
    """Rerun everything behind a writer's layer without ``removed`` [pos, d_model].

    Args:
        through: the heads that are rerun, all others add what they add in the clean run; all where ``None``.
    """
    layer_of_mlp = int(writer.removeprefix("MLP")) if writer.startswith("MLP") else None
    own = -1 if writer in ("embed", "pos_embed") else layer_of_head(writer) if layer_of_mlp is None else layer_of_mlp
    assert own is not None
    before = "resid_pre0" if own < 0 else f"resid_post{own}"
    resid, heads = run.states[before] - removed, {}
    for layer in range(own + 1, config.n_layers):
        centred = resid - resid.mean(axis=1, keepdims=True)
        x = centred / run.ln1_scales[layer][:, None]
        added = np.zeros_like(resid)
        for head in range(config.n_heads):
            label = f"L{layer}H{head}"
            output = run.terms[label]
            if through is None or label in through:
                output = run.patterns[label] @ (x @ w["W_V"][layer, head]) @ w["W_O"][layer, head]
            heads[label] = run.terms[label] - output
            added += output
        resid = resid + added + run.terms[f"b_O{layer}"]
        if not config.attn_only:
            resid = resid + run.terms[f"MLP{layer}"]
    return Lost(list(run.states.values())[-1] - resid, heads)
