"""The group and its nulls: what the erasers do to a writer, and what they seem to do to things they have no reason to erase.

The group's β is that of what it writes because the writer is in its value inputs, onto the writer. Beside it stand the same
number of placebos (the writer's output turned at random, ``interventions.placebos``) and of the writer's siblings, each with
a group of its own, of equal size and found on the scan's prompts by the same rule, each onto itself. The projections onto
the partner's output of the writer, at shuffled positions and at the same one, say what is there without a reader of it; the
latter is no null: it is what position alone explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import (
    PLACEBO,
    READING,
    SIBLINGS,
    TargetPrompt,
    WriterPrompt,
    group_work,
    siblings,
    targets_of,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_MEDIAN,
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.measures.verify.group_rule import null_group
from erasure_sweep.workers.records import GroupWork, State
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.verdict import verdict

SUM = "sum"
"""The group as a whole, among its erasers."""
WRITER = "writer"
KINDS = ("clean", "patched", "v_composed")
WITH_MEDIANS = ("clean", "patched")
"""Kinds whose medians have intervals."""
PARTNER = ("shuffled", "position")
"""The partner's output of the writer, at shuffled and at the same positions."""


class GroupRow(NamedTuple):
    """A projection of an eraser, or of the whole group, onto the writer or onto a null."""

    target: int
    eraser: str
    onto: str
    """``writer``, or the null."""
    direction: str
    """Which of the siblings or placebos, where the null is one of these."""
    kind: str
    """Of the output, ``clean`` or ``patched``, or of the part that reads, ``v_composed``."""


def whole(target: int, kind: str, onto: str = WRITER, direction: str = "") -> GroupRow:
    """A row of the group as a whole."""
    return GroupRow(target, SUM, onto, direction, kind)


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
        clean, read = (torch.cat([each, each.sum(dim=0)[None]]) for each in (reading.clean, reading.read))
        labels = (*products.target.erasers, SUM)
        for kind, values in zip(KINDS, (clean, clean - read, read), strict=True):
            rows = tuple(GroupRow(products.index, label, WRITER, "", kind) for label in labels)
            self._ratios.add_rows(rows, values, reading.norm_sq, reading.valid, kind in WITH_MEDIANS)

    def _record_nulls(self, products: TargetPrompt) -> None:
        view, index, reading, nulls = products.view, products.index, products.reading, products.null_reading
        for row, each in enumerate(products.prompt.nulls):
            rows = tuple(whole(index, kind, each.null, each.direction) for kind in ("clean", "v_composed"))
            both = torch.stack([nulls.clean[row], nulls.read[row]])
            self._ratios.add_rows(rows, both, nulls.norm_sq[row], nulls.valid[row])
        for null, onto in _of_partner(view, products.target.writer).items():
            for kind, written in (("clean", reading.outputs), ("v_composed", reading.parts)):
                product = products.reader.along(written, onto.vectors[None]).sum(dim=1)[0]
                self._ratios.add(whole(index, kind, null), product, onto.vectors.square().sum(dim=-1), onto.valid)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


def _of_partner(view: PromptView, writer: str) -> dict[str, _Onto]:
    """The partner's output of the writer, at shuffled and at the same positions."""
    output, valid = (of[view.of_partner] for of in (view.partner.output(writer), view.partner.valid(writer)))
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
            rows["eraser_group"] += _erasers(ratios, block.work, index, setting)
            about = {"writer": target.writer, "eraser": target.label}
            rows["nulls"] += [about | row for row in _nulls(ratios, block, index)]
        return columns_of(rows)

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing beside the reading."""
        n_rows = sum(
            len(KINDS) * (len(target.erasers) + 1)
            + 2 * (len(PARTNER) + group_work(size).draws + len(siblings(size.layout, target.writer)))
            for target in targets_of(size)
        )
        n_medians = sum(len(WITH_MEDIANS) * (len(target.erasers) + 1) for target in targets_of(size))
        return Cost(stored_bytes=STORED_BYTES_PER_RATIO * n_rows + STORED_BYTES_PER_MEDIAN * n_medians)


def _erasers(ratios: Ratios[GroupRow], work: GroupWork, index: int, setting: Setting) -> Iterator[Row]:
    target = work.targets[index]
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
        row["verdict"] = _verdict(ratios, work, index, setting.tau) if eraser == SUM else None
        yield row | {"n": ratios.n(read)}


def _position_share(ratios: Ratios[GroupRow], index: int) -> float:
    read = ratios.beta(whole(index, "v_composed"))
    return ratios.beta(whole(index, "v_composed", "position")) / read if read else np.nan


def _verdict(ratios: Ratios[GroupRow], work: GroupWork, index: int, tau: float) -> str | None:
    """Whether what was found on the scan's prompts holds on these, and of what else it holds."""
    own = whole(index, "v_composed")
    betas: dict[str, list[float]] = {SIBLINGS: [], PLACEBO: []}
    for null in work.nulls:
        if null.writer == work.targets[index].writer:
            betas[null.null].append(ratios.beta(whole(index, "v_composed", null.null, null.direction)))
    return verdict(ratios.beta(own), ratios.beta_interval(own)[1], tau, betas[PLACEBO], betas[SIBLINGS])


def _nulls(ratios: Ratios[GroupRow], block: Block[GroupWork], index: int) -> Iterator[Row]:
    target = block.work.targets[index]
    shown = [("measured", "", target.erasers, WRITER), *((null, "", target.erasers, null) for null in PARTNER)]
    shown += [
        (null.null, null.direction, null_group(block.layout, target, null), null.null)
        for null in block.work.nulls
        if null.writer == target.writer
    ]
    for null, direction, heads, onto in shown:
        for row in (whole(index, kind, onto, direction) for kind in ("clean", "v_composed")):
            yield {
                "null": null,
                "direction": direction,
                "of": row.kind,
                "heads": "+".join(heads),
                **ratios.quantiles(row),
                "beta": ratios.beta(row),
                **interval_columns("beta", ratios.beta_interval(row)),
                "n": ratios.n(row),
            }
