"""A writer taken out of the stream, or another prompt's output put in its place, and everything behind it recomputed.

Three reruns of a writer in one batch: removed, resampled from the partner at the same position, and at shuffled positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import run_on
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder
from erasure_sweep.workers.positions import hash_u64

REMOVED, EQUAL_POSITION, RANDOM_POSITION = "removed", "equal_position", "random_position"
RESAMPLED = (EQUAL_POSITION, RANDOM_POSITION)
LOSS_POSITIONS = 128
"""At how many positions of a prompt the loss is taken: a distribution over the vocabulary at each is what costs."""


class Ablated(NamedTuple):
    """The reruns of one writer at one prompt."""

    removed_z: dict[int, Float[Tensor, "token head d_head"]]
    """Of each later attention layer, at the measured positions, with the writer removed."""
    resampled: Float[Tensor, "ablation pos d_model"]
    """Final states, in the order of ``RESAMPLED``."""


def ablate(view: PromptView, writer: str) -> Ablated:
    """Rerun the model without a writer's output, and with its partner's."""
    own, other = view.output(writer), view.partner.output(writer)
    edits = torch.stack([-own, other - own, view.resampled(writer) - own])
    resid = view.written_stream(writer) + edits
    removed_z = {}
    for step in run_on(view.model, resid, view.reader_of(writer)):
        resid = step.resid
        if not step.sublayer.mlp:
            removed_z[step.sublayer.layer] = step.output[0, view.positions]
    return Ablated(removed_z, resid[1:])


def loss_positions(view: PromptView) -> Int[Tensor, "token"]:
    """The measured positions with a next token whose hashes are lowest, ascending."""
    positions = view.positions[view.positions < view.seq_len - 1].cpu().numpy()
    hashes = hash_u64(view.seed, view.corpus_prompt, positions)
    return torch.from_numpy(np.sort(positions[np.argsort(hashes, kind="stable")[:LOSS_POSITIONS]])).to(
        view.tokens.device
    )


def record_losses(ratios: RatioRecorder, view: PromptView, ablated: Mapping[str, Ablated]) -> None:
    """The loss of the true next token, clean and how much it rises under each resampling of each writer."""
    at = loss_positions(view)
    clean = next_token_loss(view, view.final, at)
    for writer, reruns in ablated.items():
        _record_rises(ratios, view, writer, reruns, at, clean)


def _record_rises(
    ratios: RatioRecorder,
    view: PromptView,
    writer: str,
    ablated: Ablated,
    at: Int[Tensor, "token"],
    clean: Float[Tensor, "token"],
) -> None:
    ratios.add_values(("loss", writer, "clean"), clean)
    for name, resid in zip(RESAMPLED, ablated.resampled, strict=True):
        ratios.add_values(("loss", writer, name), next_token_loss(view, resid, at) - clean)


def next_token_loss(
    view: PromptView, final: Float[Tensor, "pos d_model"], positions: Int[Tensor, "token"]
) -> Float[Tensor, "token"]:
    """−log p of the token that really follows, in nats."""
    model = view.model
    logits = model.normalize(final[positions]) @ model.weights["W_U"] + model.weights["b_U"]
    following = view.tokens[positions + 1]
    return torch.nn.functional.cross_entropy(logits, following, reduction="none")
