"""Which direct logit attributions to trust: every writer's, beside what resampling the writer really does to the logits.

The writer's output is replaced by its partner's at shuffled positions and everything behind it recomputed. Its direct
attribution says that the logit difference of the clean run's top two tokens changes by (o − o')·g; the total effect is what
changes. The slope of the effect on that direct change is the share of attribution that survives: 1 where nothing later reads
the writer, 1 − f where a fraction f of it is erased. Beside it stands what the attribution is once the V-composed parts of
all later heads are added (net), which needs no rerun.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView, views
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, final_resid
from erasure_sweep.workers.measures.scan.composition import Composer
from erasure_sweep.workers.measures.statistics.lines import LineRecorder
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanOptions, ShardTask, State, TrustWork

RERUN_BYTES = 256 * 2**20
"""Bound on the widest activations of the reruns that go together."""

NET, EFFECT, RECOMPUTED = "net", "effect", "effect_recomputed"


@torch.inference_mode()
def measure_trust(
    model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int
) -> dict[str, State]:
    """States of one shard.

    Args:
        prompts: the shard's.
        batch: prompts in one forward pass.
    """
    assert isinstance(task.work, TrustWork)
    composer = Composer(model, task.work.writers, ScanOptions())
    lines = LineRecorder(sampled=False)
    for view in views(model, task, prompts, batch):
        _record_net(lines, view, composer)
        _record_effects(lines, view, composer.rows.labels)
    return {"lines": lines.export()}


def _record_net(lines: LineRecorder, view: PromptView, composer: Composer) -> None:
    """Each writer's attribution, and with the parts of all later heads that read it."""
    parts = composer.parts(view.trace, view.index).dla
    for index, writer in enumerate(composer.rows.labels):
        x = (view.written(writer) * view.logit_direction).sum(dim=-1)
        rows = composer.rows.of(index)
        read = parts[composer.rows.later(index)] if rows.stop > rows.start else torch.zeros_like(x)
        lines.add((writer, NET), x, x + read)


def _record_effects(lines: LineRecorder, view: PromptView, writers: tuple[str, ...]) -> None:
    """What resampling each writer does to the logit difference, final scale kept and recomputed."""
    at, direction = view.positions, view.logit_direction
    final = view.final[at]
    difference = direction * view.final_scale[:, None]  # of the unembeddings, centred
    clean = (final * direction).sum(dim=-1)
    for labels, start in _together(view, writers):
        edits = torch.stack([view.resampled(label) - view.output(label) for label in labels])
        changed = final_resid(view.model, view.input_of(start) + edits, start, at)
        scale = torch.sqrt(changed.var(dim=-1, unbiased=False) + view.model.config.eps)
        direct = -torch.einsum("ntd,td->nt", edits[:, at], direction)
        effect = torch.einsum("ntd,td->nt", final - changed, direction)
        recomputed = clean - torch.einsum("ntd,td->nt", changed, difference) / scale
        for row, label in enumerate(labels):
            lines.add((label, EFFECT), direct[row], effect[row])
            lines.add((label, RECOMPUTED), direct[row], recomputed[row])


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
