"""What a writer carries: how much of what varies in its output is explained by position, how much by the token.

Shares are by analysis of variance within a shard: 1 − (SSW/dof) / (SST/(N − 1)), with SSW the squares about the means of
cells of equal position (or equal token) in one shard. Dividing by the degrees of freedom keeps many small cells from
explaining what is chance (ε², Kelley 1935). Of each token one occurrence in a prompt takes part, drawn by a hash: occurrences
of a rare token are mostly in one prompt, and what varies by prompt would seem to vary by token. A head's output is also split
by its source: what it writes from the first position (BOS) and from all others, as the paper's authors did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import (
    TargetPrompt,
    WriterPrompt,
    targets_of,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.scan.composition import head_of, head_output
from erasure_sweep.workers.measures.statistics.moments import MergedSizes
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    merge_ratios,
)
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import GroupWork, State, writers_of
from erasure_sweep.workers.tables.columns import Columns

ROUNDING = 1e-12
"""Share of the squares below which nothing varies."""
KINDS = ("position", "token")
"""What cells have in common; of tokens, one occurrence in a prompt takes part."""
WHOLE, BOS, NON_BOS = "all", "bos", "non_bos"


class PartRow(NamedTuple):
    """A part of a target's writer: its share of the writer's ``power``, or what the group takes back because it ``read`` it."""

    target: int
    part: str
    kind: str


def parts_of(writer: str) -> tuple[str, ...]:
    """The parts that a writer's output is split into."""
    return (WHOLE, BOS, NON_BOS) if writer.startswith("L") else (WHOLE,)


def writer_parts(view: PromptView, writer: str) -> Float[Tensor, "part pos d_model"]:
    """What a writer is the source of and, for a head, what of it comes from the first position and from all others."""
    whole = view.source(writer)
    if not writer.startswith("L"):
        return whole[None]
    bos = _from_first(view, writer)
    return torch.stack([whole, bos, whole - bos])


def _from_first(view: PromptView, writer: str) -> Float[Tensor, "pos d_model"]:
    """What a head writes from position 0, whose value is its z there: it can attend to nothing else."""
    layer, head = layer_of(writer), head_of(writer)
    first = view.trace.z[layer, view.index, 0, head]  # attends to itself alone
    if view.trace.write_scale is not None:
        first = first * view.trace.write_scale[layer, view.index, 0]
    parts = view.patterns(layer, [head])[0, :, :1] * (first @ head_output(view.model, writer))
    parts[: view.first] = 0.0
    return parts


class CarriesAccumulator:
    """Outputs of the writers over one shard, and what their groups read of them."""

    def __init__(self) -> None:
        self._outputs: dict[str, list[_Output]] = {}
        self._ratios: RatioRecorder[PartRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        parts = writer_parts(view, writer)
        at = view.positions
        output = _Output(at.cpu(), view.tokens[at].cpu(), _once(view), parts[:, at].cpu())
        self._outputs.setdefault(writer, []).append(output)
        for target in products.targets:
            self._record_parts(target, parts)

    def _record_parts(self, products: TargetPrompt, parts: Float[Tensor, "part pos d_model"]) -> None:
        """How much of the writer each part is, and how much of each the group takes back because it reads it."""
        own = parts[:, products.view.positions]
        norm_sq, whole = own.square().sum(dim=-1), own[0]
        read = products.reader.along(products.reader.read(parts), own).sum(dim=1)
        everywhere = torch.ones_like(norm_sq[0], dtype=torch.bool)
        for row, part in enumerate(parts_of(products.target.writer)):
            power, reading = (PartRow(products.index, part, kind) for kind in ("power", "read"))
            self._ratios.add(power, (own[row] * whole).sum(dim=-1), norm_sq[0], everywhere)
            self._ratios.add(reading, read[row], norm_sq[row], everywhere)

    def export(self) -> State:
        """Ratios of parts, and sums [kind, writer_part, …] in the order of writers and their parts."""
        rows: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
        means: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        for outputs in self._outputs.values():
            # On the CPU, where sums have one order.
            positions, tokens, once = (torch.cat(labels) for labels in list(zip(*outputs, strict=True))[:3])
            for part in torch.cat([output.parts for output in outputs], dim=1).double():
                for kind, of, labels in zip(KINDS, (part, part[once]), (positions, tokens[once]), strict=True):
                    mean = of.mean(dim=0)
                    means[kind].append(mean)
                    squares = float((of - mean).square().sum()), float(of.square().sum())
                    rows[kind].append([float(len(of)), *squares, *_within(of, labels)])
        stacked = torch.stack([torch.stack(means[kind]) for kind in KINDS])
        return {**self._ratios.export(), "sums": np.array([rows[kind] for kind in KINDS]), "mean": stacked.numpy()}


class _Output(NamedTuple):
    """A writer's output at the measured tokens of one prompt."""

    positions: Int[Tensor, "token"]
    tokens: Int[Tensor, "token"]
    once: Bool[Tensor, "token"]
    """One occurrence of each token."""
    parts: Float[Tensor, "part token d_model"]


def _once(view: PromptView) -> Bool[Tensor, "token"]:
    """Of each token that is measured the occurrence with the lowest hash."""
    at = view.positions.cpu().numpy()
    order = np.argsort(hash_u64(view.seed, view.corpus_prompt, at), kind="stable")
    first = np.unique(view.tokens.cpu().numpy()[at][order], return_index=True)[1]
    chosen = torch.zeros(len(at), dtype=torch.bool)
    chosen[order[first]] = True
    return chosen


def _within(vectors: Float[Tensor, "token d_model"], labels: Int[Tensor, "token"]) -> tuple[float, float]:
    """Squares about the means of cells of equal labels, and their degrees of freedom."""
    names, cell = torch.unique(labels, return_inverse=True)
    count = torch.bincount(cell, minlength=len(names)).double()
    mean = vectors.new_zeros(len(names), vectors.shape[1]).index_add_(0, cell, vectors) / count[:, None]
    return float((vectors - mean[cell]).square().sum()), float(len(vectors) - len(names))


class Carries(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """What each verified writer carries, and what of that its erasers take back."""

    stage, name = "group", "carries"
    needs = (CLEAN_PASS,)
    tables = ("carries",)

    def start(self, shard: Block[GroupWork]) -> CarriesAccumulator:
        """An empty state for one shard."""
        return CarriesAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Ratios of all shards, and the sums of squares about the mean of all."""
        parts = list(states)
        first, *others = parts
        n, mean, squares = first["sums"][..., 0], first["mean"], first["sums"][..., 1]
        for state in others:
            union = MergedSizes.of(n, state["sums"][..., 0])
            between = ((state["mean"] - mean) ** 2).sum(axis=-1) * union.weight
            squares = squares + state["sums"][..., 1] + between
            mean = mean + (state["mean"] - mean) * union.share[..., None]
            n = union.n
        sums = np.sum([state["sums"] for state in parts], axis=0)
        return {"squares": squares, "sums": sums, **{f"part_{k}": v for k, v in merge_ratios(parts).items()}}

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each target and part of its writer."""
        state, targets = states[self.name], block.work.targets
        prefix = "part_"
        ratios = Ratios(PartRow, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        variances = dict(zip(_writer_parts(writers_of(targets)), _variances(state), strict=True))
        rows: list[Row] = []
        for index, target in enumerate(targets):
            for part in parts_of(target.writer):
                power, read = (PartRow(index, part, kind) for kind in ("power", "read"))
                row = {"writer": target.writer, "eraser": target.label, "part": part, "power_share": ratios.beta(power)}
                row |= variances[target.writer, part] | {"erased_by_group": -ratios.beta(read)}
                rows.append(row | {"n": int(state["sums"][0, 0, 0])})
        return columns_of({self.name: rows})

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing."""
        parts = [parts_of(target.writer) for target in targets_of(size)]
        values = 8 * size.shape["d_model"] + 2 * STORED_BYTES_PER_RATIO
        return Cost(stored_bytes=values * sum(map(len, parts)))


def _writer_parts(writers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every part of every writer, in the order of a state's sums."""
    return ((writer, part) for writer in writers for part in parts_of(writer))


def _variances(state: State) -> list[Row]:
    """Variance of each part of each writer, and shares of it."""
    sums, squares = state["sums"], state["squares"]
    varies = squares > ROUNDING * sums[..., 2]
    by_position, by_token = _share(sums, np.where(varies, squares, np.nan))
    names = ("variance", "position_share", "token_share")
    variance = squares[0] / sums[0, :, 0]
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(variance, by_position, by_token, strict=True)]


def _share(
    sums: Float[np.ndarray, "kind part five"], total: Float[np.ndarray, "kind part"]
) -> Float[np.ndarray, "kind part"]:
    n, _, _, within, dof = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(dof > 0, 1.0 - (within / dof) / (total / (n - 1)), np.nan)
