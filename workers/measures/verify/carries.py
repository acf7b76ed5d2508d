"""What a writer carries: how much of what varies in its output is explained by position, how much by the token.

Shares are by analysis of variance within a shard: 1 − (SSW/dof) / (SST/(N − 1)), with SSW the squares about the means of
cells of equal position (or equal token) in one shard. Dividing by the degrees of freedom keeps many small cells from
explaining what is chance (ε², Kelley 1935). A head's output is also split by its source: what it writes from the first
position (BOS) and from all others, as the paper's authors did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.measures.scan.composition import head_of, head_output
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder
from erasure_sweep.workers.records import State, Target

ROUNDING = 1e-12
"""Share of the squares below which nothing varies."""
WHOLE, BOS, NON_BOS = "all", "bos", "non_bos"


def parts_of(writer: str) -> tuple[str, ...]:
    """The parts that a writer's output is split into."""
    return (WHOLE, BOS, NON_BOS) if writer.startswith("L") else (WHOLE,)


def writer_parts(view: PromptView, writer: str) -> Float[Tensor, "part pos d_model"]:
    """A writer's output and, for a head, what it writes from the first position and from all others."""
    whole = view.output(writer)
    if not writer.startswith("L"):
        return whole[None]
    bos = _from_first(view, writer)
    return torch.stack([whole, bos, whole - bos])


def _from_first(view: PromptView, writer: str) -> Float[Tensor, "pos d_model"]:
    """What a head writes from position 0, whose value is its z there: it can attend to nothing else."""
    layer, head = layer_of(writer), head_of(writer)
    first = view.trace.z[layer, view.index, 0, head]
    return view.pattern(layer, head)[:, :1] * (first @ head_output(view.model, writer))


class CarriesRecorder:
    """Outputs of some writers over one shard."""

    def __init__(self, writers: Sequence[str]) -> None:
        self._parts: dict[str, list[Tensor]] = {writer: [] for writer in writers}
        self._positions: list[Tensor] = []
        self._tokens: list[Tensor] = []

    def add(self, view: PromptView, parts: dict[str, Float[Tensor, "part pos d_model"]]) -> None:
        """Take in a prompt's parts of every writer."""
        self._positions.append(view.positions)
        self._tokens.append(view.tokens[view.positions])
        for writer, vectors in parts.items():
            self._parts[writer].append(vectors[:, view.positions])

    def export(self) -> State:
        """Sums of squares, [writer_part, …], in the order of writers and their parts."""
        # On the CPU, where sums have one order.
        by_position, by_token = torch.cat(self._positions).cpu(), torch.cat(self._tokens).cpu()
        rows, means = [], []
        for vectors in (torch.cat(chunks, dim=1) for chunks in self._parts.values()):
            for part in vectors.cpu().double():
                mean = part.mean(dim=0)
                means.append(mean)
                cells = [number for labels in (by_position, by_token) for number in _within(part, labels)]
                rows.append([float(len(part)), float((part - mean).square().sum()), float(part.square().sum()), *cells])
        return {"sums": np.array(rows), "mean": torch.stack(means).cpu().numpy()}


def _within(vectors: Float[Tensor, "token d_model"], labels: Int[Tensor, "token"]) -> tuple[float, float]:
    """Squares about the means of cells of equal labels, and their degrees of freedom."""
    names, cell = torch.unique(labels, return_inverse=True)
    count = torch.bincount(cell, minlength=len(names)).double()
    mean = vectors.new_zeros(len(names), vectors.shape[1]).index_add_(0, cell, vectors) / count[:, None]
    return float((vectors - mean[cell]).square().sum()), float(len(vectors) - len(names))


class Carried:
    """Shares of variance from the shards' sums; one row for each part of each writer.

    Args:
        states: of the shards, in plan order.
    """

    def __init__(self, states: Sequence[State]) -> None:
        n, mean, total = 0.0, np.zeros(1), np.zeros(1)
        for state in states:
            count, squares = state["sums"][0, 0], state["sums"][:, 1]
            apart = state["mean"] - mean
            between = (apart**2).sum(axis=1) * (n * count / (n + count))
            total = total + squares + between
            mean = mean + apart * (count / (n + count))
            n += count
        self.n = int(n)
        sums = np.sum([state["sums"] for state in states], axis=0)
        self.variance = total / n
        varies = total > ROUNDING * sums[:, 2]
        self.position_share, self.token_share = (
            _share(sums[:, 3 + 2 * kind], sums[:, 4 + 2 * kind], np.where(varies, total, np.nan), n) for kind in (0, 1)
        )


def _share(within: np.ndarray, dof: np.ndarray, total: np.ndarray, n: float) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(dof > 0, 1.0 - (within / dof) / (total / (n - 1)), np.nan)


def record_parts(
    ratios: RatioRecorder,
    view: PromptView,
    target: Target,
    index: int,
    reader: GroupReader,
    parts: Float[Tensor, "part pos d_model"],
) -> None:
    """How much of the writer each part is, and how much of each part the group takes back because it reads it.

    Args:
        index: of the target, for the keys.
    """
    own = parts[:, view.positions]
    norm_sq, whole = own.square().sum(dim=-1), own[0]
    read = reader.along(reader.read(parts), own).sum(dim=1)
    everywhere = torch.ones_like(norm_sq[0], dtype=torch.bool)
    for row, name in enumerate(parts_of(target.writer)):
        ratios.add(("part", str(index), name, "power"), (own[row] * whole).sum(dim=-1), norm_sq[0], everywhere)
        ratios.add(("part", str(index), name, "read"), read[row], norm_sq[row], everywhere)
