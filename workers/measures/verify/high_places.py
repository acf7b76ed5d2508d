"""Where to look for adversarial prompts: the tokens at which a writer's direct logit attribution is highest.

Of every prompt the one token with the highest attribution counts, so that the places found are of different texts. The
first tokens of a prompt are left out: there is little context that an unrelated prompt could lack. It makes no table: what is
found is measured by the stage ``adversarial``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import WriterPrompt, writers_of
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.records import GroupWork, Place, State, Target
from erasure_sweep.workers.tables.columns import Columns

CONTEXT = 8
"""Tokens before a place, or a quarter of a shorter prompt."""


class HighPlace(NamedTuple):
    """The token of a prompt at which a writer's attribution is highest; position −1 where none qualifies."""

    dla: float
    prompt: int
    position: int


def highest_place(view: PromptView, writer: str) -> HighPlace:
    """The place of one prompt."""
    late = view.positions >= min(CONTEXT, view.seq_len // 4)
    dla = (view.written(writer) * view.logit_direction).sum(dim=-1).masked_fill(~late, -torch.inf)
    best = int(dla.argmax())
    position = int(view.positions[best]) if bool(late[best]) else -1
    return HighPlace(float(dla[best]), view.corpus_prompt, position)


class HighPlacesAccumulator:
    """The highest places of each writer in one shard, prompt by prompt."""

    def __init__(self) -> None:
        self._places: dict[str, list[HighPlace]] = {}

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        self._places.setdefault(products.writer, []).append(highest_place(products.view, products.writer))

    def export(self) -> State:
        """Arrays [writer, prompt]."""
        return {
            name: np.array([[getattr(place, name) for place in places] for places in self._places.values()])
            for name in HighPlace._fields
        }


class HighPlaces(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """The tokens of each verified writer's highest attributions."""

    stage, name = "group", "high_places"
    needs = (CLEAN_PASS,)
    tables = ()

    def start(self, shard: Block[GroupWork]) -> HighPlacesAccumulator:
        """An empty state for one shard."""
        return HighPlacesAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """The places of all shards."""
        return merge_places(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """None."""
        return {}

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing."""
        return Cost()


def merge_places(states: Iterable[State]) -> State:
    """The places of many shards, [writer, prompt]."""
    parts = list(states)
    return {name: np.concatenate([state[name] for state in parts], axis=1) for name in HighPlace._fields}


def found_places(states: Iterable[State], targets: Sequence[Target], n: int) -> tuple[Place, ...]:
    """The ``n`` places of highest attribution of every writer, the highest first.

    Args:
        states: of this measure, of all shards in plan order.
    """
    merged = merge_places(states)
    places: list[Place] = []
    for row, writer in enumerate(writers_of(targets)):
        dla, prompt, position = (merged[name][row] for name in HighPlace._fields)
        order = [i for i in np.argsort(-dla, kind="stable") if position[i] >= 0 and dla[i] > 0]
        places += [Place(writer, "found", int(prompt[i]), int(position[i])) for i in order[:n]]
    return tuple(places)
