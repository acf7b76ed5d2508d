"""Where to look for adversarial prompts: the tokens at which a writer's direct logit attribution is highest.

Of every prompt the one token with the highest attribution counts, so that the places found are of different texts. The
first tokens of a prompt are left out: there is little context that an unrelated prompt could lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.records import Place, State, Target

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


def places_state(found: Sequence[Sequence[HighPlace]]) -> State:
    """Arrays [writer, prompt] of the places of one shard."""
    return {name: np.array([[getattr(place, name) for place in row] for row in found]) for name in HighPlace._fields}


def writers_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """The writers of some targets, once each, in their order."""
    return tuple(dict.fromkeys(target.writer for target in targets))


def found_places(states: Sequence[dict[str, State]], targets: Sequence[Target], n: int) -> tuple[Place, ...]:
    """The ``n`` places of highest attribution of every writer, the highest first.

    Args:
        states: of all shards of the substage ``group``, in plan order.
    """
    places: list[Place] = []
    for row, writer in enumerate(writers_of(targets)):
        dla, prompt, position = (
            np.concatenate([state["places"][name][row] for state in states]) for name in HighPlace._fields
        )
        order = [i for i in np.argsort(-dla, kind="stable") if position[i] >= 0 and dla[i] > 0]
        places += [Place(writer, "found", int(prompt[i]), int(position[i])) for i in order[:n]]
    return tuple(places)
