"""A writer taken out of the stream, or another prompt's output put in its place, and everything behind it recomputed.

Three reruns of a writer in one batch: removed, resampled from the partner at the same position, and at shuffled positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import run_on

RESAMPLED = ("equal_position", "random_position")
"""Where the partner's output is taken from."""


class AblatedRun(NamedTuple):
    """The reruns of one writer at one prompt."""

    removed_z: dict[int, Float[Tensor, "token head d_head"]]
    """Of each later attention layer, at the measured positions, with the writer removed."""
    resampled: Float[Tensor, "ablation pos d_model"]
    """Final states, in the order of ``RESAMPLED``."""


def ablate(view: PromptView, writer: str) -> AblatedRun:
    """Rerun the model without what a writer is the source of, and with its partner's."""
    own, other = view.source(writer), view.partner.source(writer)[view.of_partner]
    edits = torch.stack([-own, other - own, view.resampled(writer) - own])
    resid = view.written_stream(writer) + edits
    removed_z = {}
    for step in run_on(view.model, resid, view.reader_of(writer)):
        resid = step.resid
        if not step.sublayer.mlp:
            removed_z[step.sublayer.layer] = step.output[0, view.positions]
    return AblatedRun(removed_z, resid[1:])
