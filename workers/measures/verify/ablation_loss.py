"""What a writer is worth to the model: how much the loss rises when another prompt's output is put in its place.

Resampled from the partner at the same position, and at shuffled positions, everything behind the writer recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.ablation import RESAMPLED
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, loss_flops
from erasure_sweep.workers.measures.interventions.verified_prompt import ABLATED, WriterPrompt, targets_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.measures.statistics.rows import RowT
from erasure_sweep.workers.records import GroupWork, State, writers_of
from erasure_sweep.workers.tables.columns import Columns

CLEAN = "clean"


class LossRow(NamedTuple):
    """The clean loss, or how much it rises under an ablation of a writer."""

    writer: str
    ablation: str


class AblationLossAccumulator:
    """The loss of the true next token, clean and how much it rises under each resampling of each writer."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[LossRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        self._ratios.add_values(LossRow(writer, CLEAN), view.clean_loss)
        for name, resid in zip(RESAMPLED, products.ablated.resampled, strict=True):
            self._ratios.add_values(LossRow(writer, name), view.loss_of(resid) - view.clean_loss)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


class AblationLoss(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """The loss under resampling of a writer."""

    stage, name = "group", "ablation_loss"
    needs = (CLEAN_PASS, ABLATED)
    tables = ("ablation_loss",)

    def start(self, shard: Block[GroupWork]) -> AblationLossAccumulator:
        """An empty state for one shard."""
        return AblationLossAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer and resampling."""
        ratios = Ratios(LossRow, states[self.name])
        writers = writers_of(block.work.targets)
        return columns_of({self.name: [_row(ratios, LossRow(w, ablation)) for w in writers for ablation in RESAMPLED]})

    def cost(self, size: ShardSize) -> Cost:
        """Unembeddings: clean, and two for each writer."""
        n_writers = len(writers_of(targets_of(size)))
        flops, n_rows = loss_flops(size, 1 + len(RESAMPLED) * n_writers), (1 + len(RESAMPLED)) * n_writers
        return Cost(flops=flops, stored_bytes=STORED_BYTES_PER_RATIO * n_rows)


def _row(ratios: Ratios[LossRow], row: LossRow) -> Row:
    return {
        "writer": row.writer,
        "ablation": row.ablation,
        **increase(ratios, LossRow(row.writer, CLEAN), row),
    }


def increase(ratios: Ratios[RowT], clean: RowT, rise: RowT) -> Row:
    """The columns of a clean loss, and of by how much it rises."""
    return {
        "clean_loss": ratios.beta(clean),
        "increase_mean": ratios.beta(rise),
        **interval_columns("increase_mean", ratios.beta_interval(rise)),
        **ratios.quantiles(rise),
        "n": ratios.n(rise),
    }
