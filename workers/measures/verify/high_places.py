"""Where to look for adversarial prompts: the tokens at which a writer's direct logit attribution is highest.

Of every prompt the one token with the highest attribution counts, so that the places found are of different texts. The
first tokens of a prompt are left out: there is little context that an unrelated prompt could lack. It makes no table: what is
found is measured by the stage ``adversarial``.

How high is high is found out on one half of the prompts, drawn by a hash: there the places with the highest attribution are
taken. Whatever is said of such places is counted on the other half, at the places whose attribution is at least as high.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import WriterPrompt
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import GroupWork, Place, State, Target, writers_of
from erasure_sweep.workers.tables.columns import Columns

CONTEXT = 8
"""Tokens before a place, or a quarter of a shorter prompt."""
_HALF_SALT = 2**35
"""Takes the place of a position in hashes that part the prompts."""


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


def found_places(states: Iterable[State], targets: Sequence[Target], n: int, seed: int) -> tuple[Place, ...]:
    """At most ``n`` places of high attribution of every writer: those found on one half of the prompts, then others.

    Args:
        states: of this measure, of all shards in plan order.
        seed: of the halves.
    """
    merged = merge_places(states)
    places: list[Place] = []
    for row, writer in enumerate(writers_of(targets)):
        dla, prompt, position = (merged[name][row] for name in HighPlace._fields)
        finding = first_half(seed, prompt)
        order = [i for i in np.argsort(-dla, kind="stable") if position[i] >= 0 and dla[i] > 0]
        found = [i for i in order if finding[i]][: n - n // 2]
        shown = [i for i in order if not finding[i] and found and dla[i] >= dla[found[-1]]][: n // 2]
        for half, of_half in (("found", found), ("shown", shown)):
            places += [Place(writer, "found", int(prompt[i]), int(position[i]), half) for i in of_half]
    return tuple(places)


def first_half(seed: int, prompts: Int[np.ndarray, "prompt"]) -> Bool[np.ndarray, "prompt"]:
    """Which of some prompts of the corpus are the half on which places are found: those with the lower hashes."""
    order = np.argsort(hash_u64(seed, prompts, _HALF_SALT), kind="stable")
    chosen = np.zeros(len(prompts), dtype=bool)
    chosen[order[: len(prompts) - len(prompts) // 2]] = True
    return chosen
