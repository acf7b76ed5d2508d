"""Which direct logit attributions to trust: every writer's, beside what resampling the writer really does to the logits.

The writer's output is replaced by its partner's at shuffled positions and everything behind it recomputed. Its direct
attribution says that the logit difference of the clean run's top two tokens changes by (o − o')·g; the total effect is what
changes. The slope of the effect on that direct change is the share of attribution that survives: 1 where nothing later reads
the writer, 1 − f where a fraction f of it is erased. Beside it stands what the attribution is once the V-composed parts of
all later heads are added (net), which needs no rerun.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, final_resid
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.scan.composition import Composer
from erasure_sweep.workers.measures.statistics.lines import STORED_BYTES_PER_LINE, LineRecorder, Lines, merge_lines
from erasure_sweep.workers.records import ScanOptions, State, TrustWork
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.trust import trust_word

RERUN_BYTES = 256 * 2**20
"""Bound on the widest activations of the reruns that go together."""

NET, EFFECT, RECOMPUTED = "net", "effect", "effect_recomputed"


class TrustRow(NamedTuple):
    """A writer's attribution, ``net`` or the total effect against it."""

    writer: str
    kind: str


class TrustAccumulator:
    """Each writer's attribution with what later heads take back, and with what resampling the writer does."""

    def __init__(self, block: Block[TrustWork]) -> None:
        self._composer = Composer(block.model, block.work.writers, ScanOptions())
        self._lines: LineRecorder[TrustRow] = LineRecorder(sampled=False)

    def update(self, products: PromptView) -> None:
        """Take in one prompt."""
        self._record_net(products)
        self._record_effects(products)

    def _record_net(self, view: PromptView) -> None:
        """Each writer's attribution, and with the parts of all later heads that read it."""
        rows = self._composer.rows
        parts = self._composer.parts(view.trace, view.index, view.first).dla
        for index, writer in enumerate(rows.labels):
            x = (view.written(writer) * view.logit_direction).sum(dim=-1)
            own = rows.of(index)
            read = parts[rows.later(index)] if own.stop > own.start else torch.zeros_like(x)
            self._lines.add(TrustRow(writer, NET), view, x, x + read)

    def _record_effects(self, view: PromptView) -> None:
        """What resampling each writer does to the logit difference, final scale kept and recomputed."""
        at, direction = view.positions, view.logit_direction
        final = view.final[at]
        difference = direction * view.final_scale[:, None]  # of the unembeddings, centred
        clean = (final * direction).sum(dim=-1)
        for labels, start in _together(view, self._composer.rows.labels):
            edits = torch.stack([view.resampled(label) - view.source(label) for label in labels])
            changed = final_resid(view.model, view.input_of(start) + edits, start, at)
            scale = torch.sqrt(changed.var(dim=-1, unbiased=False) + view.model.config.eps)
            direct = -torch.einsum("ntd,td->nt", edits[:, at], direction)
            effect = torch.einsum("ntd,td->nt", final - changed, direction)
            recomputed = clean - torch.einsum("ntd,td->nt", changed, difference) / scale
            for row, label in enumerate(labels):
                self._lines.add(TrustRow(label, EFFECT), view, direct[row], effect[row])
                self._lines.add(TrustRow(label, RECOMPUTED), view, direct[row], recomputed[row])

    def export(self) -> State:
        """Moments."""
        return self._lines.export()


def _together(view: PromptView, writers: tuple[str, ...]) -> Iterator[tuple[list[str], Sublayer]]:
    """Writers whose reruns start at the same sublayer, as many at once as memory allows."""
    config = view.model.config
    width = max(config.d_mlp, 3 * config.n_heads * config.d_head)
    most = max(1, RERUN_BYTES // (4 * view.seq_len * width))
    by_start: dict[Sublayer, list[str]] = {}
    for writer in writers:
        by_start.setdefault(view.reader_of(writer), []).append(writer)
    for start, labels in by_start.items():
        for first in range(0, len(labels), most):
            yield labels[first : first + most], start


class DlaTrust(Measure[TrustWork, Block[TrustWork], PromptView]):
    """What a writer's attribution is worth."""

    stage, name = "trust", "trust"
    needs = (CLEAN_PASS,)
    tables = ("dla_trust",)

    def start(self, shard: Block[TrustWork]) -> TrustAccumulator:
        """An empty state for one shard."""
        return TrustAccumulator(shard)

    def merge(self, block: Block[TrustWork], states: Iterable[State]) -> State:
        """Moments of all shards."""
        return merge_lines(states)

    def columns(self, block: Block[TrustWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer."""
        lines = Lines(TrustRow, states[self.name])
        return columns_of({"dla_trust": [_row(lines, writer) for writer in block.work.writers.labels(block.layout)]})

    def cost(self, size: ShardSize) -> Cost:
        """A rerun of each writer."""
        assert isinstance(size.work, TrustWork)
        start, stop = size.work.writers
        return Cost(size.n_prompts * (stop - start) / 2, stored_bytes=3 * STORED_BYTES_PER_LINE * (stop - start))


def _row(lines: Lines[TrustRow], writer: str) -> Row:
    power = lines.square_x(TrustRow(writer, NET))
    net, effect, recomputed = (lines.line(TrustRow(writer, kind), power) for kind in (NET, EFFECT, RECOMPUTED))
    dla, net_size = lines.mean_abs(TrustRow(writer, NET))
    return {
        "writer": writer,
        "dla_mean_abs": dla,
        "net_mean_abs": net_size,
        "effect_mean_abs": lines.mean_abs(TrustRow(writer, EFFECT))[1],
        "net_slope": net.slope,
        "net_r": net.r,
        "effect_slope": effect.slope,
        "effect_r": effect.r,
        "low": effect.slope_low,
        "high": effect.slope_high,
        "effect_slope_recomputed": recomputed.slope,
        "effect_r_recomputed": recomputed.r,
        "trust": trust_word(effect.slope),
        "n": net.n,
    }
