"""Where in a prompt the group erases: its projection onto the writer, clean and patched, in bins of positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS
from erasure_sweep.workers.measures.interventions.verified_prompt import READING, WriterPrompt, targets_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    merge_ratios,
)
from erasure_sweep.workers.records import GroupWork, State, Target
from erasure_sweep.workers.tables.columns import Columns


class BinRow(NamedTuple):
    """The group along the writer in a bin of positions, ``clean`` or ``patched``, or the writer's own ``norm_sq``."""

    target: int
    first: int
    last: int
    kind: str


def bins(seq_len: int) -> list[tuple[int, int]]:
    """Bins of positions, first and last: 0, 1, 2–3, 4–7, …"""
    starts = [0, *(2**power for power in range((seq_len - 1).bit_length()))]
    return [
        (start, min(stop, seq_len) - 1)
        for start, stop in zip(starts, [*starts[1:], seq_len], strict=True)
        if start < seq_len
    ]


class PositionProfileAccumulator:
    """The sum of the group in each bin."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[BinRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view = products.view
        for target in products.targets:
            reading = target.reading
            clean, read = reading.clean.sum(dim=0), reading.read.sum(dim=0)
            norm_sq, valid = reading.norm_sq, reading.valid
            for first, last in bins(view.longest):
                inside = (view.positions >= first) & (view.positions <= last)
                for kind, product in (("clean", clean), ("patched", clean - read)):
                    self._ratios.add(BinRow(target.index, first, last, kind), product, norm_sq, valid, inside)
                # |w|² per token of the bin, as a pooled coefficient.
                ones = torch.ones_like(norm_sq)
                row = BinRow(target.index, first, last, "norm_sq")
                self._ratios.add(row, norm_sq, ones, torch.ones_like(valid), inside)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


class PositionProfile(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """Erasure by position."""

    stage, name = "group", "position_profile"
    needs = (CLEAN_PASS, READING)
    tables = ("position_profile",)

    def start(self, shard: Block[GroupWork]) -> PositionProfileAccumulator:
        """An empty state for one shard."""
        return PositionProfileAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each target and bin."""
        ratios = Ratios(BinRow, states[self.name])
        clean = [row for row in ratios.rows if row.kind == "clean"]
        rows = [
            _row(ratios, target, row) for i, target in enumerate(block.work.targets) for row in clean if row.target == i
        ]
        return columns_of({self.name: rows})

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing beside the reading."""
        return Cost(stored_bytes=3 * STORED_BYTES_PER_RATIO * len(bins(size.seq_len)) * len(targets_of(size)))


def _row(ratios: Ratios[BinRow], target: Target, clean: BinRow) -> Row:
    return {
        "writer": target.writer,
        "eraser": target.label,
        "first_position": clean.first,
        "last_position": clean.last,
        **ratios.quantiles(clean, "clean_"),
        **ratios.quantiles(clean._replace(kind="patched"), "patched_"),
        "writer_norm": float(np.sqrt(ratios.beta(clean._replace(kind="norm_sq")))),
        "n": ratios.n(clean),
    }
