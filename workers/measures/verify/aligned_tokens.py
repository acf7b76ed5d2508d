"""Tokens whose unembedding a writer's output is aligned with: its direct logits, averaged over the corpus.

Direct logits are linear in the output, so that the mean over tokens needs one vector alone: the mean of o / scale, with the
final LayerNorm's scale of each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import State

SHOWN = 30
"""How many tokens are listed."""


class DirectSums:
    """Sums of some writers' outputs over the final scale."""

    def __init__(self, writers: Sequence[str]) -> None:
        self._writers = writers
        self._sum: torch.Tensor | None = None
        self._n = 0

    def add(self, view: PromptView) -> None:
        """Take in one prompt."""
        scale = view.final_scale[:, None]
        total = torch.stack([(view.written(writer) / scale).double().sum(dim=0) for writer in self._writers])
        self._sum = total if self._sum is None else self._sum + total
        self._n += len(scale)

    def export(self) -> State:
        """The sums [writer, d_model] and the number of tokens."""
        assert self._sum is not None
        return {"sum": self._sum.cpu().numpy(), "n": np.array(self._n)}


class Aligned(NamedTuple):
    """The tokens that one writer raises most, on average."""

    token_ids: Int[np.ndarray, "token"]
    mean_direct_logit: Float[np.ndarray, "token"]


def aligned_tokens(model: LeanModel, states: Sequence[State]) -> list[Aligned]:
    """Tokens of each writer, the highest first; the lower id goes first among equals."""
    mean = np.sum([state["sum"] for state in states], axis=0) / sum(int(state["n"]) for state in states)
    found = []
    unembedding = model.weights["W_U"]
    for vector in mean:
        centred = torch.from_numpy(vector - vector.mean()).to(unembedding.device, unembedding.dtype)
        logits = (centred @ unembedding).double().cpu().numpy()
        ids = np.argsort(-logits, kind="stable")[:SHOWN]
        found.append(Aligned(ids, logits[ids]))
    return found
