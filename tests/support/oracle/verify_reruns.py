"""Literal reruns for the oracle of verify, in float64: the whole forward pass again, from an edited stream or edited values.

Two edits are possible, and everything behind them is computed anew, each layer with its own pattern and scale:

- something is added to the stream at a state, right after the sublayer that makes it;
- something is subtracted from what a head's values see: its value input is LN(resid_pre) − edit, while its queries, its
  keys and every other reader see LN(resid_pre).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.scan import Activations
from tests.support.oracle.sublayers import (
    Weights,
    biases,
    embeddings,
    layer_heads,
    read_stream,
    run_mlp,
    uncapped_logits,
)


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
    terms = embeddings(config, w, ids)
    states: dict[str, np.ndarray] = {}
    last_term: dict[str, str] = {}

    def pass_state(name: str, stream: np.ndarray) -> np.ndarray:
        states[name] = stream + added[name] if name in added else stream
        last_term[name] = next(reversed(terms))
        return states[name]

    resid = pass_state("resid_pre0", np.sum(list(terms.values()), axis=0))
    summed, patterns, ln1_scales, ln2_scales, write_scales = {}, {}, [], [], []
    for layer in range(config.n_layers):
        before = resid
        x, scale = read_stream(config, resid)
        ln1_scales.append(scale)
        outputs, of_layer, write_scale = layer_heads(config, w, layer, x, unseen)
        patterns |= of_layer
        write_scales.append(write_scale)
        outputs |= biases(config, w, layer, len(ids))
        terms |= outputs
        summed[f"attn{layer}"] = np.sum(list(outputs.values()), axis=0)
        resid = resid + summed[f"attn{layer}"]
        if not config.attn_only:
            if not config.parallel:
                before = resid = pass_state(f"resid_mid{layer}", resid)
            ln2_scales.append(read_stream(config, before)[1])
            terms[f"MLP{layer}"] = run_mlp(config, w, layer, before)
            resid = resid + terms[f"MLP{layer}"]
        resid = pass_state(f"resid_post{layer}", resid)
    logits, final_scale = uncapped_logits(config, w, resid)
    return Activations(
        terms, summed, states, last_term, patterns, ln1_scales, ln2_scales, write_scales, final_scale, logits
    )
