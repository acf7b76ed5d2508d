"""One prompt as the measures of the stage ``group`` take it in: writer by writer, each with the heads verified as its erasers.

What several measures need of a writer or of a group is worked out when the first asks for it, and dropped with the writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.ablation import AblatedRun, ablate
from erasure_sweep.workers.measures.interventions.placebos import Draws, Placebos
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader, head_reading_flops, read_by_groups
from erasure_sweep.workers.measures.verify.group_rule import null_group
from erasure_sweep.workers.records import GroupWork, PlaceboWork, ShardTask, Target, writers_of

SIBLINGS, PLACEBO = "siblings", "placebo"
"""What stands in a writer's place as a null."""


class GroupReading(NamedTuple):
    """What a group writes along its writer."""

    outputs: list[Float[Tensor, "one _ token d_head"]]
    """The heads' clean outputs, before W_O, layer by layer."""
    parts: list[Float[Tensor, "one _ token d_head"]]
    """What of them is there because the writer is in the value input."""
    clean: Float[Tensor, "head token"]
    """Products of the outputs with the writer."""
    read: Float[Tensor, "head token"]
    """Products of the parts with the writer."""
    norm_sq: Float[Tensor, "token"]
    valid: Bool[Tensor, "token"]
    """Where the writer has a projection ratio."""


class NullReading(NamedTuple):
    """What each null's own group writes along the null."""

    clean: Float[Tensor, "null token"]
    read: Float[Tensor, "null token"]
    norm_sq: Float[Tensor, "null token"]
    valid: Bool[Tensor, "null token"]


class TargetPrompt:
    """A writer's group of erasers at one prompt.

    Args:
        prompt: the writer there.
        index: of the target among all.
    """

    def __init__(self, prompt: WriterPrompt, index: int, target: Target) -> None:
        self.prompt, self.view, self.index, self.target = prompt, prompt.view, index, target

    @cached_property
    def reader(self) -> GroupReader:
        """The group's heads."""
        return GroupReader(self.view, self.target)

    @cached_property
    def reading(self) -> GroupReading:
        """The group along the writer."""
        view, writer, reader = self.view, self.target.writer, self.reader
        own = view.written(writer)
        parts, outputs = reader.read(view.source(writer)[None]), reader.outputs()
        clean, read = (reader.along(written, own[None])[0] for written in (outputs, parts))
        return GroupReading(outputs, parts, clean, read, own.square().sum(dim=-1), view.valid(writer)[view.positions])

    @cached_property
    def null_reading(self) -> NullReading:
        """The nulls' groups along the nulls, in the order of the writer's nulls."""
        view, prompt, layout = self.view, self.prompt, self.view.model.config.layout
        groups = [null_group(layout, self.target, null) for null in prompt.nulls]
        clean = prompt.null_fields.new_zeros(len(groups), len(view.positions))
        read = torch.zeros_like(clean)
        for reading in read_by_groups(view, prompt.null_fields, groups):
            clean[reading.fields] += reading.clean
            read[reading.fields] += reading.read
        valid = [
            view.valid(null.direction if null.null == SIBLINGS else prompt.writer)[view.positions]
            for null in prompt.nulls
        ]
        norm_sq = prompt.null_fields[:, view.positions].square().sum(dim=-1)
        return NullReading(clean, read, norm_sq, torch.stack(valid) if valid else norm_sq > 0)


class WriterPrompt:
    """A verified writer at one prompt, with its targets.

    Args:
        placebos: of all verified writers, for the measures that ask for nulls.
    """

    def __init__(self, view: PromptView, writer: str, work: GroupWork, placebos: Placebos | None = None) -> None:
        self.view, self.writer, self._placebos = view, writer, placebos
        self.nulls = tuple(null for null in work.nulls if null.writer == writer)
        self.targets = [
            TargetPrompt(self, index, target) for index, target in enumerate(work.targets) if target.writer == writer
        ]

    @cached_property
    def ablated(self) -> AblatedRun:
        """The model rerun without the writer, and with its partner's."""
        return ablate(self.view, self.writer)

    @cached_property
    def placebos(self) -> Float[Tensor, "draw pos d_model"]:
        """The writer's source turned at random, once for each draw."""
        assert self._placebos is not None
        return self._placebos.fields(self.view, self.writer)

    @cached_property
    def null_fields(self) -> Float[Tensor, "null pos d_model"]:
        """What stands in the writer's place, in the order of its nulls."""
        fields = [
            self.view.source(null.direction) if null.null == SIBLINGS else self.placebos[int(null.direction) - 1]
            for null in self.nulls
        ]
        return torch.stack(fields) if fields else self.view.output(self.writer)[None][:0]


def by_writer(views: Iterator[PromptView], work: GroupWork, placebos: Placebos) -> Iterator[WriterPrompt]:
    """Every prompt, writer by writer."""
    for view in views:
        for writer in writers_of(work.targets):
            yield WriterPrompt(view, writer, work, placebos)


def draws_of(task: ShardTask) -> Draws:
    """The placebos that a shard of the stages ``placebo`` and ``group`` needs."""
    work = task.work
    assert isinstance(work, PlaceboWork | GroupWork), "only these have nulls"
    writers = work.writers if isinstance(work, PlaceboWork) else writers_of(work.targets)
    return Draws(writers, task.seed, work.draws)


def siblings(layout: Layout, writer: str) -> tuple[str, ...]:
    """Components of a writer's kind at its place: a head's layer, the other embedding; an MLP has none."""
    if writer in layout.embeddings:
        return tuple(label for label in layout.embeddings if label != writer)
    if writer.startswith("MLP"):
        return ()
    return tuple(label for label in layout.heads if layer_of(label) == layer_of(writer) and label != writer)


def group_work(size: ShardSize) -> GroupWork:
    """What a shard of the stage ``group`` measures."""
    assert isinstance(size.work, GroupWork)
    return size.work


def targets_of(size: ShardSize) -> tuple[Target, ...]:
    """What a shard of the stage ``group`` verifies."""
    return group_work(size).targets


def _read(size: ShardSize) -> Cost:
    """Mixing by the group's heads, of the writer and of what stands in its place."""
    fields = [
        (len(siblings(size.layout, t.writer)) + group_work(size).draws + 1) * len(t.erasers) for t in targets_of(size)
    ]
    return Cost(flops=sum(fields) * size.n_prompts * head_reading_flops(size))


READING = SharedProduct("the groups along writers and nulls", _read)
ABLATED = SharedProduct(
    "reruns without each writer",
    lambda size: Cost(passes=size.n_prompts * 3 * len(writers_of(targets_of(size))) / 2),
)
