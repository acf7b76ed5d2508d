"""The substage ``group``: everything that is measured of verified writers and their erasers, prompt by prompt."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView, views
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.measures.statistics.lines import LineRecorder
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder
from erasure_sweep.workers.measures.verify.ablations import ablate, record_losses
from erasure_sweep.workers.measures.verify.aligned_tokens import DirectSums
from erasure_sweep.workers.measures.verify.carries import CarriesRecorder, record_parts, writer_parts
from erasure_sweep.workers.measures.verify.dla_effects import record_effects
from erasure_sweep.workers.measures.verify.eraser_group import record_group
from erasure_sweep.workers.measures.verify.mlp_erasure import record_mlps
from erasure_sweep.workers.measures.verify.patched_residual import record_patched
from erasure_sweep.workers.measures.verify.places import HighPlace, highest_place, places_state, writers_of
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import GroupWork, ShardTask, State


@torch.inference_mode()
def measure_group(
    model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int
) -> dict[str, State]:
    """States of one shard.

    Args:
        prompts: the shard's.
        batch: prompts in one forward pass.
    """
    assert isinstance(task.work, GroupWork)
    shard = _Shard(task.work)
    for view in views(model, task, prompts, batch):
        shard.add(view)
    return shard.export()


class _Shard:
    """What one shard keeps."""

    def __init__(self, work: GroupWork) -> None:
        self.work = work
        self.writers = writers_of(work.targets)
        self.ratios, self.lines = RatioRecorder(), LineRecorder(sampled=True)
        self.carries = CarriesRecorder(self.writers)
        self.direct = DirectSums(self.writers)
        self.places: list[list[HighPlace]] = [[] for _ in self.writers]

    def add(self, view: PromptView) -> None:
        """Take in one prompt."""
        ablated = {writer: ablate(view, writer) for writer in self.writers}
        parts = {writer: writer_parts(view, writer) for writer in self.writers}
        record_losses(self.ratios, view, ablated)
        for row, writer in enumerate(self.writers):
            record_mlps(self.ratios, view, writer)
            self.places[row].append(highest_place(view, writer))
        for index, target in enumerate(self.work.targets):
            reader = GroupReader(view, target)
            record_group(self.ratios, view, target, index, reader)
            record_patched(self.ratios, view, target, index)
            record_effects(self.lines, view, target, index, reader, ablated[target.writer])
            record_parts(self.ratios, view, target, index, reader, parts[target.writer])
        self.carries.add(view, parts)
        self.direct.add(view)
        self.ratios.end_prompt()
        self.lines.end_prompt(view)

    def export(self) -> dict[str, State]:
        """Everything as plain arrays."""
        return {
            "ratios": self.ratios.export(),
            "lines": self.lines.export(),
            "carries": self.carries.export(),
            "direct": self.direct.export(),
            "places": places_state(self.places),
        }
