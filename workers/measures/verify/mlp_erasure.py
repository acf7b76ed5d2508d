"""MLPs erase too: how an MLP's output along a writer changes when the writer is taken out of the MLP's input.

The scale of the MLP's LayerNorm stays what it was with the writer, as that of the heads' value inputs does: were it computed
anew, everything that the MLP reads would be scaled up, and what it writes would change though it does not read the writer.

An MLP answers to any change of its input, most of all by what it does to everything. So the same is done with what stands in
the writer's place as a null for groups of heads, its placebos and its siblings, each projected onto itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, own_sublayer, reader_behind
from erasure_sweep.workers.measures.interventions.verified_prompt import (
    PLACEBO,
    SIBLINGS,
    WriterPrompt,
    group_work,
    siblings,
    targets_of,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.prompt_sums import (
    STORED_BYTES_PER_SUM,
    PromptSums,
    RowSums,
    merge_prompt_sums,
)
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.records import GroupWork, State, writers_of
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.verdict import verdict

NULL_POSITIONS = 128
"""At how many positions of a prompt nulls are taken out of an MLP's input: each of them is one more run of the MLP."""
_NULLS = "null_"
"""Before the names of what a state holds of nulls."""
RUNS = ("clean", "patched", "read")
"""With the writer in the MLP's input, without it, and the difference."""


class MlpRow(NamedTuple):
    """An MLP's output along a writer."""

    writer: str
    mlp: str
    run: str


def later_mlps(layout: Layout, writer: str) -> tuple[str, ...]:
    """MLPs that can read a writer, that of a head's own layer included."""
    first = reader_behind(layout, own_sublayer(writer))
    labels = () if layout.attn_only else tuple(f"MLP{layer}" for layer in range(layout.n_layers))
    return tuple(label for label in labels if own_sublayer(label) >= first)


class NullRow(NamedTuple):
    """What an MLP writes along a null because it reads it: Σ of products with the null, and Σ of its squares."""

    writer: str
    mlp: str
    null: str
    direction: str


class MlpErasureAccumulator:
    """Every later MLP, clean, with the writer taken out of its input, and the difference; the difference for every null."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[MlpRow] = RatioRecorder()
        self._nulls: PromptSums[NullRow] = PromptSums()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        model, at = view.model, view.positions
        written = view.written(writer)
        norm_sq, valid = written.square().sum(dim=-1), view.valid(writer)[at]
        for label in later_mlps(model.config.layout, writer):
            layer = layer_of(label)
            stream = view.input_of(Sublayer(layer, True))[at]
            clean = (view.written(label) * written).sum(dim=-1)
            patched = (model.mlp_without(layer, stream, written) * written).sum(dim=-1)
            for run, product in zip(RUNS, (clean, patched, clean - patched), strict=True):
                self._ratios.add(MlpRow(writer, label, run), product, norm_sq, valid)
            if products.nulls:
                self._record_nulls(products, label)

    def _record_nulls(self, products: WriterPrompt, label: str) -> None:
        view, layer = products.view, layer_of(label)
        at = view.drawn_positions(view.positions, NULL_POSITIONS)
        fields, stream = products.null_fields[:, at], view.input_of(Sublayer(layer, True))[at]
        read = view.output(label)[at] - view.model.mlp_without(layer, stream.expand_as(fields), fields)
        sums = torch.stack([(read * fields).sum(dim=(1, 2)), fields.square().sum(dim=(1, 2))])
        rows = tuple(NullRow(products.writer, label, null.null, null.direction) for null in products.nulls)
        self._nulls.add_rows(rows, sums)

    def export(self) -> State:
        """The rows; none where no MLP can read a writer."""
        return {**self._ratios.export(), **{f"{_NULLS}{name}": values for name, values in self._nulls.export().items()}}


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
        parts = list(states)
        nulls = merge_prompt_sums(map(_of_nulls, parts))
        return {**merge_ratios(parts), **{f"{_NULLS}{name}": values for name, values in nulls.items()}}

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer and later MLP."""
        state = states[self.name]
        ratios, nulls = Ratios(MlpRow, state), RowSums(NullRow, _of_nulls(state))
        betas: dict[tuple[str, str, str], list[float]] = {}
        for null in nulls.rows:
            product, power = nulls.of(null).sum(axis=0).tolist()
            betas.setdefault(null[:3], []).append(product / power if power > 0 else np.nan)
        rows = []
        for writer in writers_of(block.work.targets):
            for label in later_mlps(block.layout, writer):
                placebos, kin = (np.array(betas.get((writer, label, kind), [])) for kind in (PLACEBO, SIBLINGS))
                rows.append(_row(ratios, writer, label, placebos, kin, setting.tau))
        return columns_of({self.name: rows})

    def cost(self, size: ShardSize) -> Cost:
        """An MLP of each later layer once more, and once for each null at fewer tokens."""
        layout, draws = size.layout, group_work(size).draws
        layers = {writer: len(later_mlps(layout, writer)) for writer in writers_of(targets_of(size))}
        nulls = sum(n * (draws + len(siblings(layout, writer))) for writer, n in layers.items())
        tokens = sum(layers.values()) * size.positions + nulls * min(size.positions, NULL_POSITIONS)
        flops = 4 * size.n_prompts * tokens * size.shape["d_model"] * size.shape["d_mlp"]
        stored = STORED_BYTES_PER_RATIO * len(RUNS) * sum(layers.values())
        return Cost(flops=flops, stored_bytes=stored + 2 * STORED_BYTES_PER_SUM * size.n_prompts * nulls)


def _of_nulls(state: State) -> State:
    return {name.removeprefix(_NULLS): values for name, values in state.items() if name.startswith(_NULLS)}


def _row(
    ratios: Ratios[MlpRow],
    writer: str,
    mlp: str,
    placebos: Float[np.ndarray, "draw"],
    kin: Float[np.ndarray, "sibling"],
    tau: float,
) -> Row:
    """What an MLP takes out of a writer, beside what it does to nulls."""
    clean, patched, read = (MlpRow(writer, mlp, run) for run in RUNS)
    beta, ends = ratios.beta(read), ratios.beta_interval(read)
    low, median, high = np.nanquantile(placebos, (0.0, 0.5, 1.0)) if np.isfinite(placebos).any() else (np.nan,) * 3
    return {
        "writer": writer,
        "component": mlp,
        **ratios.quantiles(clean, "clean_"),
        **ratios.quantiles(patched, "patched_"),
        **ratios.quantiles(read, "read_"),
        "beta": beta,
        **interval_columns("beta", ends),
        **{"placebo_lowest": float(low), "placebo_median": float(median), "placebo_highest": float(high)},
        "siblings_median": float(np.nanmedian(kin)) if np.isfinite(kin).any() else np.nan,
        "verdict": verdict(beta, ends[1], tau, placebos.tolist(), kin.tolist()),
        "n": ratios.n(read),
    }
