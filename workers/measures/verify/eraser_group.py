"""The group and its nulls: what the erasers do to a writer, and what they seem to do to things they have no reason to erase.

Beside the projection of the group's output onto the writer stand those onto the partner's output of the writer at shuffled
positions, onto random directions with the stream's covariance, and onto the writer's siblings; beside its V-composed part
from the writer that part's projection onto the shuffled outputs, and the parts from random directions (a placebo patch) and
from siblings. The partner's output at the same position is no null: it is what position alone explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import (
    READING,
    TargetPrompt,
    WriterPrompt,
    siblings,
    targets_of,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.records import GroupWork, State, Target
from erasure_sweep.workers.tables.columns import Columns

SUM = "sum"
"""The group as a whole, among its erasers."""
WRITER = "writer"
KINDS = ("clean", "patched", "v_composed")
WITH_MEDIANS = ("clean", "patched")
"""Kinds whose medians have intervals."""
NULLS = (
    *(("shuffled", "clean"), ("shuffled", "v_composed"), ("random_direction", "clean"), ("placebo", "v_composed")),
    *(("position", "clean"), ("position", "v_composed")),
)
"""Nulls, each with the number that it questions; ``position`` is none, but what position alone explains."""


class GroupRow(NamedTuple):
    """A projection of an eraser, or of the whole group, onto the writer or onto a null."""

    target: int
    eraser: str
    onto: str
    """``writer``, or the null."""
    sibling: str
    """Which, where the null is ``siblings``."""
    kind: str
    """Of the output, ``clean`` or ``patched``, or of the part that reads, ``v_composed``."""


def whole(target: int, kind: str, onto: str = WRITER, sibling: str = "") -> GroupRow:
    """A row of the group as a whole."""
    return GroupRow(target, SUM, onto, sibling, kind)


class _Onto(NamedTuple):
    """What the group is projected onto, at the measured tokens."""

    vectors: Float[Tensor, "token d_model"]
    valid: Bool[Tensor, "token"]


class EraserGroupAccumulator:
    """Each eraser and their sum, clean, patched and read, and the sum's nulls."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[GroupRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        for target in products.targets:
            self._record_erasers(target)
            self._record_nulls(target)

    def _record_erasers(self, products: TargetPrompt) -> None:
        reading = products.reading
        clean, read = (torch.cat([products[0], products.sum(dim=1)[:1]]) for products in (reading.clean, reading.read))
        labels = (*products.target.erasers, SUM)
        for kind, values in zip(KINDS, (clean, clean - read, read), strict=True):
            rows = tuple(GroupRow(products.index, label, WRITER, "", kind) for label in labels)
            self._ratios.add_rows(rows, values, reading.norm_sq[0], reading.valid, kind in WITH_MEDIANS)

    def _record_nulls(self, products: TargetPrompt) -> None:
        view, index, reading = products.view, products.index, products.reading
        clean, read = reading.clean.sum(dim=1), reading.read.sum(dim=1)
        kin = siblings(view.model.config.layout, products.target.writer)
        for row, label in enumerate(kin, start=1):
            there = view.valid(label)[view.positions]
            self._ratios.add(whole(index, "clean", "siblings", label), clean[row], reading.norm_sq[row], there)
            self._ratios.add(whole(index, "v_composed", "siblings", label), read[row], reading.norm_sq[row], there)
        self._ratios.add(whole(index, "v_composed", "placebo"), read[-1], reading.norm_sq[0], reading.valid)
        self._ratios.add(whole(index, "clean", "random_direction"), clean[-1], reading.norm_sq[-1], reading.valid)
        for null, onto in _others(view, products.target.writer).items():
            for kind, written in (("clean", reading.outputs), ("v_composed", reading.parts)):
                product = products.reader.along(written, onto.vectors[None]).sum(dim=1)[0]
                self._ratios.add(whole(index, kind, null), product, onto.vectors.square().sum(dim=-1), onto.valid)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


def _others(view: PromptView, writer: str) -> dict[str, _Onto]:
    """The partner's output of the writer, at shuffled and at the same positions."""
    output, valid = view.partner.output(writer), view.partner.valid(writer)
    at, shuffled = view.positions, view.shuffled[view.positions]
    return {"shuffled": _Onto(output[shuffled], valid[shuffled]), "position": _Onto(output[at], valid[at])}


class EraserGroup(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """Whether the heads that were found to erase a writer do so on these prompts, beyond what a placebo does."""

    stage, name = "group", "eraser_group"
    needs = (CLEAN_PASS, READING)
    tables = ("eraser_group", "nulls")

    def start(self, shard: Block[GroupWork]) -> EraserGroupAccumulator:
        """An empty state for one shard."""
        return EraserGroupAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """Each eraser and the whole group of each target, and its nulls."""
        ratios = Ratios(GroupRow, states[self.name])
        rows: dict[str, list[Row]] = {name: [] for name in self.tables}
        for index, target in enumerate(block.work.targets):
            rows["eraser_group"] += _erasers(ratios, target, index, setting)
            about = {"writer": target.writer, "eraser": target.label}
            rows["nulls"] += [about | row for row in _nulls(ratios, block.layout, target, index)]
        return columns_of(rows)

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing beside the reading."""
        n_rows = sum(
            len(KINDS) * (len(target.erasers) + 1) + len(NULLS) + 2 * len(siblings(size.layout, target.writer))
            for target in targets_of(size)
        )
        return Cost(stored_bytes=STORED_BYTES_PER_RATIO * n_rows)


def _erasers(ratios: Ratios[GroupRow], target: Target, index: int, setting: Setting) -> Iterator[Row]:
    single = target.erasers if target.label not in target.erasers else ()
    for label, eraser in (*((head, head) for head in single), (target.label, SUM)):
        clean, patched, read = (GroupRow(index, eraser, WRITER, "", kind) for kind in KINDS)
        row: Row = {"writer": target.writer, "group": target.label, "eraser": label}
        row |= {"chosen": target.chosen, "held_out": setting.held_out}
        for kind, of in zip(KINDS, (clean, patched, read), strict=True):
            row |= ratios.quantiles(of, f"{kind}_")
        row |= interval_columns("clean_median", ratios.median_interval(clean))
        row |= interval_columns("patched_median", ratios.median_interval(patched))
        row |= {"beta": ratios.beta(read), **interval_columns("beta", ratios.beta_interval(read))}
        row["position_share"] = _position_share(ratios, index) if eraser == SUM else np.nan
        row["verdict"] = _verdict(ratios, target, index, setting.tau) if eraser == SUM else None
        yield row | {"n": ratios.n(read)}


def _position_share(ratios: Ratios[GroupRow], index: int) -> float:
    read = ratios.beta(whole(index, "v_composed"))
    return ratios.beta(whole(index, "v_composed", "position")) / read if read else np.nan


def _verdict(ratios: Ratios[GroupRow], target: Target, index: int, tau: float) -> str | None:
    """Whether what was found on the scan's prompts holds on these, and exceeds what a placebo patch does."""
    _, high = ratios.beta_interval(whole(index, "v_composed"))
    low, _ = ratios.beta_interval(whole(index, "v_composed", "placebo"))
    if np.isnan(high) or np.isnan(low):
        return None
    return "erased" if target.chosen != "all" and high < -tau and high < low else "not found"


def _nulls(ratios: Ratios[GroupRow], layout: Layout, target: Target, index: int) -> Iterator[Row]:
    measured = [("measured", whole(index, kind)) for kind in ("clean", "v_composed")]
    nulls = [(null, whole(index, kind, null)) for null, kind in NULLS]
    kin = [
        ("siblings", whole(index, kind, "siblings", label))
        for label in siblings(layout, target.writer)
        for kind in ("clean", "v_composed")
    ]
    for null, row in (*measured, *nulls, *kin):
        yield {
            "null": null,
            "direction": row.sibling,
            "of": row.kind,
            **ratios.quantiles(row),
            "beta": ratios.beta(row),
            **interval_columns("beta", ratios.beta_interval(row)),
            "n": ratios.n(row),
        }
