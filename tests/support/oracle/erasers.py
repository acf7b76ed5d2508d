"""The literal oracle of broad erasers, in float64: what each head takes out of all that earlier components write, and out of
random directions.

A random direction is a sum of the stream that the head reads, over all measured tokens, each less the mean and with a random
sign: over signs its covariance is that of the stream. It is written at every position, as a writer's output would be; the head
is rerun with it subtracted from its value input, pattern and scale clean, and β of what is gone is taken over the measured
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.scan import TAU, Kept, as_numpy, forward, layer_of_head, pooled_coefficient
from tests.support.oracle.v_composition import patched_output, resid_pre


def random_betas(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray,
    positions: Kept,
    signs: np.ndarray,
    *,
    first_position: bool,
) -> dict[str, list[float]]:
    """β of what every head writes because it reads each random direction.

    Args:
        config, weights: the processed model.
        tokens: ids [prompt, pos].
        positions: the measured positions of each prompt.
        signs: of each direction at each measured token [direction, prompt, measured].
        first_position: whether the direction is written at position 0 too.
    """
    w = as_numpy(weights)
    runs = [forward(config, w, prompt) for prompt in tokens]
    found: dict[str, list[float]] = {}
    for layer in range(config.n_layers):
        read = [resid_pre(run, layer)[kept] for run, kept in zip(runs, positions, strict=True)]
        mean = np.concatenate(read).mean(axis=0)
        for own_signs in signs:
            direction = np.zeros(config.d_model)
            for stream, of_prompt in zip(read, own_signs, strict=True):
                for vector, sign in zip(stream, of_prompt, strict=True):
                    direction += sign * (vector - mean)
            for head in (f"L{layer}H{index}" for index in range(config.n_heads)):
                gone, written = [], []
                for run, kept in zip(runs, positions, strict=True):
                    field = np.tile(direction, (len(run.logits), 1))
                    field[0] *= first_position
                    patched = patched_output(config, w, run, field, head, "frozen")
                    gone.append((run.terms[head] - patched)[kept])
                    written.append(field[kept])
                found.setdefault(head, []).append(pooled_coefficient(np.concatenate(gone), np.concatenate(written)))
    return found


def eraser_rows(pairs: pd.DataFrame, random: Mapping[str, list[float]], tau: float = TAU) -> pd.DataFrame:
    """The table ``erasers``.

    Args:
        pairs: the oracle's ``v_composition``.
        random: what ``random_betas`` found.
    """
    rows = []
    for head, of_random in random.items():
        betas = {row["writer"]: row["beta"] for _, row in pairs.iterrows() if row["eraser"] == head}
        betas = {writer: beta for writer, beta in betas.items() if not np.isnan(beta)}
        of_heads = [beta for writer, beta in betas.items() if layer_of_head(writer) is not None]
        taken = [beta for beta in betas.values() if beta < -tau]
        heads_taken = sum(beta < -tau for beta in of_heads)
        median = float(np.median(of_heads)) if of_heads else np.nan
        is_broad = heads_taken >= 3 and 2 * heads_taken >= len(of_heads) and median < min(of_random)
        rows.append(
            {
                "eraser": head,
                "writers": len(betas),
                "writers_taken": len(taken),
                "heads": len(of_heads),
                "heads_taken": heads_taken,
                "beta_sum": sum(taken),
                "beta_mean": float(np.mean(taken)) if taken else np.nan,
                "head_median": median,
                "random_mean": float(np.mean(of_random)),
                "random_low": min(of_random),
                "random_taken": float(np.mean([beta < -tau for beta in of_random])),
                "broad": is_broad,
            }
        )
    return pd.DataFrame(rows)
