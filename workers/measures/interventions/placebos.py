"""Placebos: a writer's output turned into directions in which the stream varies, but which nothing has a reason to erase.

With Σ the covariance of the stream at the state that first holds the writer's output o,

    placebo = Σ^½ Q Σ^−½ o,

Q a random rotation (Haar) of the span in which Σ has rank. The map keeps the metric of Σ: what is alike at two tokens stays
alike, what is constant stays constant, and the placebo is as typical of the stream as the writer is. A writer's outputs lie
in the rows of a matrix B (a head's W_O; for others all of the stream), so of Q only what it makes of that span is drawn. With
A = Σ^−½ Bᵀ and F a random isometry, the polar factor of P G P', where G is Gaussian and P, P' project onto the spans of Σ and
of the rows of A,

    Q A = F (AᵀA)^½,   so that   placebo = coordinates of o in B · (AᵀA)^½ Fᵀ Σ^½.

G is drawn from (seed, writer, draw): neither prompts nor shards matter. Everything here is float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, is_head, layer_of
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.scan.composition import head_of, head_output
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.positions import hash_u64

RANK = 1e-8
"""Share of the largest eigenvalue below which a direction of the stream does not vary."""
OWN_RANK = 1e-10
"""The same of the writer's own directions."""


def states_holding(layout: Layout, writers: Sequence[str]) -> tuple[str, ...]:
    """The states that first hold some writers, once each, in the order of the stream."""
    wanted = {layout.written_state(writer) for writer in writers}
    return tuple(state for index, state in enumerate(layout.states) if index in wanted)


class _Roots(NamedTuple):
    """Of a symmetric matrix, on the span where it has rank."""

    root: Float[Tensor, "d d"]
    inverse_root: Float[Tensor, "d d"]
    span: Float[Tensor, "d d"]
    """The projection onto it."""
    rank: int


def _roots(matrix: Float[Tensor, "d d"], rank: float) -> _Roots:
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > rank * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    values, vectors = values[kept], vectors[:, kept]
    root, inverse_root, span = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5, 0.0))
    return _Roots(root, inverse_root, span, len(values))


class Draws(NamedTuple):
    """Which placebos are drawn."""

    writers: tuple[str, ...]
    seed: int
    n: int
    """How many each writer has."""


class Placebos:
    """The placebos of some writers of a model; a writer's are drawn when they are first asked for.

    Args:
        covariance: of the stream in the states that first hold the writers, as ``states_holding`` orders them.
    """

    def __init__(self, model: LeanModel, draws: Draws, covariance: Float[np.ndarray, "state d_model d_model"]) -> None:
        states = states_holding(model.config.layout, draws.writers)
        self._model, self._draws = model, draws
        self._covariance = dict(zip(states, torch.from_numpy(covariance), strict=True))
        self._of_state = cache(lambda state: _roots(self._covariance[state], RANK))
        self._turns: dict[str, Float[Tensor, "draw own d_model"]] = {}

    def fields(self, view: PromptView, writer: str) -> Float[Tensor, "draw pos d_model"]:
        """A writer's placebos at every position of a prompt."""
        if writer not in self._turns:
            self._turns[writer] = self._draw(writer).to(self._model.device, self._model.dtype)
        z = view.trace.z[:, view.index]
        own = z[layer_of(writer), :, head_of(writer)] if is_head(writer) else view.output(writer)
        turned: Tensor = own @ self._turns[writer]
        turned[:, : view.first] = 0.0  # as in the writer's source
        return turned

    def _draw(self, writer: str) -> Float[Tensor, "draw own d_model"]:
        """What each draw makes of the writer's coordinates."""
        model, layout = self._model, self._model.config.layout
        stream = self._of_state(layout.states[layout.written_state(writer)])
        d_model = model.config.d_model
        rows = head_output(model, writer).cpu().double() if is_head(writer) else torch.eye(d_model).double()
        inside = stream.inverse_root @ rows.T
        own = _roots(inside.T @ inside, OWN_RANK)
        turns = []
        for draw in range(self._draws.n):
            gauss = torch.from_numpy(gaussian(self._draws.seed, layout, writer, draw, (d_model, len(rows))))
            isometry = _isometry(stream.span @ gauss @ own.span, own.rank)
            turns.append(own.root @ isometry.T @ stream.root)
        return torch.stack(turns)


def _isometry(matrix: Float[Tensor, "d own"], rank: int) -> Float[Tensor, "d own"]:
    """The polar factor of a matrix of known rank."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    kept = slice(len(values) - rank, None)
    factor: Tensor = matrix @ (vectors[:, kept] / values[kept].sqrt()) @ vectors[:, kept].T
    return factor


def gaussian(seed: int, layout: Layout, writer: str, draw: int, shape: tuple[int, int]) -> Float[np.ndarray, "d own"]:
    """Standard normal numbers of a writer's draw."""
    key = int(hash_u64(seed, layout.writers.index(writer), draw))
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)
