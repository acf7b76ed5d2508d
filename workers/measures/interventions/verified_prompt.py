"""One prompt as the measures of the stage ``group`` take it in: writer by writer, each with the heads verified as its erasers.

What several measures need of a writer or of a group is worked out when the first asks for it, and dropped with the writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.ablation import AblatedRun, ablate
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.records import GroupWork, Target


class GroupReading(NamedTuple):
    """What a group writes along some fields of vectors: the writer, its siblings, and random directions (the placebo)."""

    outputs: list[Float[Tensor, "one _ token d_head"]]
    """The heads' clean outputs, before W_O, layer by layer."""
    parts: list[Float[Tensor, "one _ token d_head"]]
    """What of them is there because the writer is in the value input."""
    clean: Float[Tensor, "field head token"]
    """Products of the outputs with the fields."""
    read: Float[Tensor, "field head token"]
    """Products of each field's part with that field; of the placebo's part, with the writer."""
    norm_sq: Float[Tensor, "field token"]
    valid: Bool[Tensor, "token"]
    """Where the writer has a projection ratio."""


class TargetPrompt:
    """A writer's group of erasers at one prompt.

    Args:
        index: of the target among all.
    """

    def __init__(self, view: PromptView, index: int, target: Target) -> None:
        self.view, self.index, self.target = view, index, target

    @cached_property
    def reader(self) -> GroupReader:
        """The group's heads."""
        return GroupReader(self.view, self.target)

    @cached_property
    def reading(self) -> GroupReading:
        """The group along the writer, its siblings and the placebo."""
        view, writer, reader = self.view, self.target.writer, self.reader
        kin = siblings(view.model.config.layout, writer)
        fields = [view.source(writer), *(view.source(label) for label in kin), view.random_directions(writer)]
        everywhere = torch.stack(fields)
        own = everywhere[:, view.positions]
        parts, outputs = reader.read(everywhere), reader.outputs()
        return GroupReading(
            outputs,
            [part[:1].clone() for part in parts],  # those of all fields would stay in memory with it
            clean=reader.along(outputs, own),
            read=reader.along(parts, torch.cat([own[:-1], own[:1]])),
            norm_sq=own.square().sum(dim=-1),
            valid=view.valid(writer)[view.positions],
        )


class WriterPrompt:
    """A verified writer at one prompt, with its targets."""

    def __init__(self, view: PromptView, writer: str, targets: Sequence[Target]) -> None:
        self.view, self.writer = view, writer
        self.targets = [TargetPrompt(view, index, t) for index, t in enumerate(targets) if t.writer == writer]

    @cached_property
    def ablated(self) -> AblatedRun:
        """The model rerun without the writer, and with its partner's."""
        return ablate(self.view, self.writer)


def by_writer(views: Iterator[PromptView], targets: Sequence[Target]) -> Iterator[WriterPrompt]:
    """Every prompt, writer by writer."""
    for view in views:
        for writer in writers_of(targets):
            yield WriterPrompt(view, writer, targets)


def writers_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """The writers of some targets, once each, in their order."""
    return tuple(dict.fromkeys(target.writer for target in targets))


def siblings(layout: Layout, writer: str) -> tuple[str, ...]:
    """Components of a writer's kind at its place: a head's layer, the other embedding; an MLP has none."""
    if writer in ("embed", "pos_embed"):
        return ("pos_embed" if writer == "embed" else "embed",)
    if writer.startswith("MLP"):
        return ()
    return tuple(label for label in layout.heads if layer_of(label) == layer_of(writer) and label != writer)


def targets_of(size: ShardSize) -> tuple[Target, ...]:
    """What a shard of the stage ``group`` verifies."""
    assert isinstance(size.work, GroupWork)
    return size.work.targets


def _read(size: ShardSize) -> Cost:
    """Mixing of the fields by the group's heads."""
    fields = [(len(siblings(size.layout, t.writer)) + 2) * len(t.erasers) for t in targets_of(size)]
    return Cost(flops=2 * sum(fields) * size.n_tokens * size.seq_len * size.shape["d_head"])


READING = SharedProduct("the group along its fields", _read)
ABLATED = SharedProduct(
    "reruns without each writer",
    lambda size: Cost(passes=size.n_prompts * 3 * len(writers_of(targets_of(size))) / 2),
)
