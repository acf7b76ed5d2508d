"""MLPs erase too: how an MLP's output along a writer changes when the writer is taken out of the MLP's input.

The scale of the MLP's LayerNorm stays what it was with the writer, as that of the heads' value inputs does: were it computed
anew, everything that the MLP reads would be scaled up, and what it writes would change though it does not read the writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, next_sublayer, own_sublayer
from erasure_sweep.workers.measures.interventions.verified_prompt import WriterPrompt, targets_of, writers_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import GroupWork, State
from erasure_sweep.workers.tables.columns import Columns

RUNS = ("clean", "patched", "read")
"""With the writer in the MLP's input, without it, and the difference."""


class MlpRow(NamedTuple):
    """An MLP's output along a writer."""

    writer: str
    mlp: str
    run: str


def later_mlps(layout: Layout, writer: str) -> tuple[str, ...]:
    """MLPs that can read a writer, that of a head's own layer included."""
    first = next_sublayer(layout, own_sublayer(writer))
    labels = () if layout.attn_only else tuple(f"MLP{layer}" for layer in range(layout.n_layers))
    return tuple(label for label in labels if own_sublayer(label) >= first)


class MlpErasureAccumulator:
    """Every later MLP, clean, with the writer taken out of its input, and the difference."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[MlpRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        model, at = view.model, view.positions
        written = view.written(writer)
        norm_sq, valid = written.square().sum(dim=-1), view.valid(writer)[at]
        for label in later_mlps(model.config.layout, writer):
            layer = int(label.removeprefix("MLP"))
            stream = view.input_of(Sublayer(layer, True))[at]
            clean = (view.written(label) * written).sum(dim=-1)
            patched = (mlp_without(model, layer, stream, written) * written).sum(dim=-1)
            for run, product in zip(RUNS, (clean, patched, clean - patched), strict=True):
                self._ratios.add(MlpRow(writer, label, run), product, norm_sq, valid)

    def export(self) -> State:
        """The rows; none where no MLP can read a writer."""
        return self._ratios.export()


def mlp_without(
    model: LeanModel, layer: int, stream: Float[Tensor, "token d_model"], taken: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """Output of an MLP with something taken out of its input, over the input's clean LayerNorm scale."""
    config = model.config
    normalized, _, inverse_scale = torch.native_layer_norm(stream, (config.d_model,), None, None, config.eps)
    return model.mlp_of_normalized(layer, normalized - (taken - taken.mean(dim=-1, keepdim=True)) * inverse_scale)


class MlpErasure(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """What later MLPs take back of a writer."""

    stage, name = "group", "mlp_erasure"
    needs = (CLEAN_PASS,)
    tables = ("mlp_erasure",)

    def start(self, shard: Block[GroupWork]) -> MlpErasureAccumulator:
        """An empty state for one shard."""
        return MlpErasureAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer and later MLP."""
        ratios = Ratios(MlpRow, states[self.name])
        pairs = [
            (writer, label) for writer in writers_of(block.work.targets) for label in later_mlps(block.layout, writer)
        ]
        return columns_of({self.name: [_row(ratios, writer, label) for writer, label in pairs]})

    def cost(self, size: ShardSize) -> Cost:
        """An MLP of each later layer once more."""
        layers = sum(len(later_mlps(size.layout, writer)) for writer in writers_of(targets_of(size)))
        flops = 4 * size.n_tokens * layers * size.shape["d_model"] * size.shape["d_mlp"]
        return Cost(flops=flops, stored_bytes=STORED_BYTES_PER_RATIO * len(RUNS) * layers)


def _row(ratios: Ratios[MlpRow], writer: str, mlp: str) -> Row:
    clean, patched, read = (MlpRow(writer, mlp, run) for run in RUNS)
    return {
        "writer": writer,
        "component": mlp,
        **ratios.quantiles(clean, "clean_"),
        **ratios.quantiles(patched, "patched_"),
        **ratios.quantiles(read, "read_"),
        "beta": ratios.beta(read),
        **interval_columns("beta", ratios.beta_interval(read)),
        "n": ratios.n(read),
    }
