"""How the erasers' direct logit attribution goes with the writer's: every way of taking the writer's part of it.

The attribution x of the writer is set against what the group's attribution owes to the writer:

- ``full``: all of the group's attribution;
- ``v_composition``: of its V-composed part, pattern and scale kept;
- ``value_input``: of its output minus that with the writer taken out of the value input, the scale recomputed;
- ``layer_input``: the same with the writer taken out of queries, keys and values of each erasing layer;
- ``downstream``: the same with the writer taken out of the stream right behind it, everything later recomputed;
- ``without_pattern``: what the group's OV circuits make of the writer at the same position, no attention pattern, on the
  logit of the true next token alone, from position 32 on (a later script of the paper's authors).

The paper's figure 4 is one of the ablations; which one its text leaves open, so all are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.ablation import AblatedRun
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS
from erasure_sweep.workers.measures.interventions.rerun import Sublayer
from erasure_sweep.workers.measures.interventions.verified_prompt import (
    ABLATED,
    READING,
    TargetPrompt,
    WriterPrompt,
    targets_of,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.jackknife import Estimate
from erasure_sweep.workers.measures.statistics.lines import (
    SAMPLE,
    STORED_BYTES_PER_LINE,
    STORED_BYTES_PER_POINT,
    LineRecorder,
    Lines,
    merge_lines,
)
from erasure_sweep.workers.records import GroupWork, State
from erasure_sweep.workers.tables.columns import Columns

EFFECTS = ("full", "v_composition", "value_input", "layer_input", "downstream", "without_pattern")
FIRST_POSITION = 32
"""Of ``without_pattern``, as in the authors' script."""


class EffectRow(NamedTuple):
    """An effect of a target's group, against the writer's attribution."""

    target: int
    effect: str


class DlaEffectsAccumulator:
    """Every effect of every target."""

    def __init__(self) -> None:
        self._lines: LineRecorder[EffectRow] = LineRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        for target in products.targets:
            self._record_ablations(target, products.ablated)
            self._record_without_pattern(target)

    def _record_ablations(self, products: TargetPrompt, ablated: AblatedRun) -> None:
        view, reader, writer = products.view, products.reader, products.target.writer
        direction = view.logit_direction
        x = (view.written(writer) * direction).sum(dim=-1)
        outputs, read = products.reading.outputs, products.reading.parts
        parts = {
            "full": outputs,
            "v_composition": read,
            "value_input": reader.read_rescaled(writer),
            "layer_input": _minus(outputs, _without_layer_input(products)),
            "downstream": _minus(
                outputs, [_heads(ablated.removed_z[part.layer], part.heads) for part in reader.layers]
            ),
        }
        for effect, part in parts.items():
            y = reader.along(part, direction[None]).sum(dim=1)[0]
            self._lines.add(EffectRow(products.index, effect), view, x, y)

    def _record_without_pattern(self, products: TargetPrompt) -> None:
        view, at = products.view, products.view.positions
        inside = (at >= FIRST_POSITION) & (at < view.seq_len - 1)
        following = view.tokens[(at + 1).clamp(max=view.seq_len - 1)]
        direction = view.model.logit_row(following) / view.final_scale[:, None]
        written = view.written(products.target.writer)
        y = products.reader.same_position(written, direction)
        row = EffectRow(products.index, "without_pattern")
        self._lines.add(row, view, (written * direction).sum(dim=-1), y, inside)

    def export(self) -> State:
        """Moments and points."""
        return self._lines.export()


def _minus(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _heads(z: Float[Tensor, "token all_heads d_head"], heads: list[int]) -> Float[Tensor, "one head token d_head"]:
    return z[:, heads].transpose(0, 1)[None]


def _without_layer_input(products: TargetPrompt) -> list[Tensor]:
    """The heads' outputs, before W_O, if their layer's input lacks the writer."""
    view, outputs = products.view, []
    for part in products.reader.layers:
        stream = view.input_of(Sublayer(part.layer, False)) - view.source(products.target.writer)
        z = view.model.attend(part.layer, stream[None]).z[0, view.positions]
        outputs.append(_heads(z, part.heads))
    return outputs


class DlaEffects(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """The erasers' attribution against the writer's."""

    stage, name = "group", "dla_effects"
    needs = (CLEAN_PASS, READING, ABLATED)
    tables = ("dla_correlation", "dla_points")

    def start(self, shard: Block[GroupWork]) -> DlaEffectsAccumulator:
        """An empty state for one shard."""
        return DlaEffectsAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Moments of all shards, and the points of all with the lowest hashes."""
        return merge_lines(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """A line and its points for each target and effect."""
        lines = Lines(EffectRow, states[self.name])
        rows: dict[str, list[Row]] = {name: [] for name in self.tables}
        for index, target in enumerate(block.work.targets):
            about = {"writer": target.writer, "eraser": target.label}
            for row in (EffectRow(index, effect) for effect in EFFECTS):
                rows["dla_correlation"].append(about | _line(lines, row))
                rows["dla_points"] += [about | point for point in _points(lines, row)]
        return columns_of(rows)

    def cost(self, size: ShardSize) -> Cost:
        """One rerun of the erasing layers for each target."""
        n_rows = len(EFFECTS) * len(targets_of(size))
        stored = STORED_BYTES_PER_LINE + STORED_BYTES_PER_POINT * min(SAMPLE, size.n_tokens)
        return Cost(size.n_prompts * len(targets_of(size)) / 2, stored_bytes=stored * n_rows)


def _line(lines: Lines[EffectRow], row: EffectRow) -> Row:
    line, ranks = lines.line(row), lines.spearman(row)
    if not np.isfinite(line.r):
        ranks = Estimate(np.nan, np.nan, np.nan)
    return {
        "effect": row.effect,
        "r": line.r,
        **ranks.columns("spearman"),
        **{name: getattr(line, name) for name in ("slope", "intercept", "low", "high", "slope_low", "slope_high", "n")},
        "stage": "verify",
    }


def _points(lines: Lines[EffectRow], row: EffectRow) -> Iterator[Row]:
    points = lines.points(row)
    for prompt, position, x, y in zip(*(points[name] for name in ("prompt", "position", "x", "y")), strict=True):
        place = {"effect": row.effect, "prompt": int(prompt), "position": int(position)}
        yield place | {"writer_dla": float(x), "eraser_dla": float(y)}
