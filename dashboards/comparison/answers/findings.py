"""What the answers at the top of a comparison say, as plain data: who is erased, whose DLA not to trust, what arose when.

``dashboards/comparison/answers/at_a_glance.py`` puts it into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.dashboards.comparison.sized_models import sized
from erasure_sweep.dashboards.comparison.training import TrainedModel
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.erased_writers import ErasedWriter, erased_writers_of
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.facts.trust import (
    CANCELLED,
    MISLEADING,
    PARTLY,
    REVERSED,
    WORDS,
    arriving_of,
    settled_words,
    trust_of,
)
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.sweep_folder import ModelTables

HALF = 0.5
_MOST_HEADS = 3
_OVERSHOOT = 0.1


class JudgedWriter(NamedTuple):
    """A component and the share of its DLA that arrives at the logits, with its interval."""

    model: str
    component: str
    arrives: Interval


class Trust(NamedTuple):
    """What taking components out says of their DLA, of ``n`` of which a word was told.

    Attributes:
        settled: by word those of which it is settled, those first of which the least arrives.
        unsettled: those whose interval holds more than one word, or for which two replacements give different ones.
        absent: models in which this was not measured.
    """

    n: int
    settled: dict[str, list[JudgedWriter]]
    unsettled: list[JudgedWriter]
    absent: list[str]

    @property
    def misleading(self) -> list[JudgedWriter]:
        """Those whose DLA says what does not happen, and it is settled."""
        return [one for word in MISLEADING for one in self.settled.get(word, [])]


class ArisenErasure(NamedTuple):
    """A writer's share at the first and the last point.

    Attributes:
        half: the first point with half of the last share or more.
        peak: a point between them with clearly more than the last; None where there is none.
    """

    writer: str
    first: float
    last: float
    half: int
    peak: tuple[int, float] | None


def most_erased_writers(models: Sequence[ModelTables], heads: int = _MOST_HEADS) -> list[tuple[str, ErasedWriter]]:
    """The most erased writer of all models, then their most erased heads, each with its model's name; all clearly erased."""
    found = [
        (name, writer)
        for name, model in zip(display_names(models), models, strict=True)
        for writer in erased_writers_of(model.tables)
    ]
    found.sort(key=lambda pair: -pair[1].share.value)
    of_heads = [pair for pair in found if is_head(pair[1].writer)][:heads]
    return [*found[:1], *(pair for pair in of_heads if pair is not found[0])]


def halved(models: Sequence[ModelTables]) -> tuple[int, int]:
    """In how many models later heads take out half of some head's output or more, and in how many heads were measured."""
    heads = [one.heads(bool(one.centred.labels)) for one in sized(models)]
    return sum(one.largest[1] >= HALF for one in heads), len(heads)


def trust_in(models: Sequence[ModelTables], heads: bool | None = None) -> Trust:
    """The components of all models of whose DLA a word was told.

    Args:
        heads: attention heads alone, or all others alone; None for all.
    """
    judged: list[tuple[JudgedWriter, str]] = []
    absent = []
    for name, model in zip(display_names(models), models, strict=True):
        told, settled, arriving = trust_of(model.tables), settled_words(model.tables), arriving_of(model.tables)
        absent += [] if told else [name]
        judged += [
            (JudgedWriter(name, label, Interval(*arriving[label])), settled.get(label, ""))
            for label in told
            if heads in (None, is_head(label))
        ]
    judged.sort(key=lambda pair: _least(pair[0]))
    by_word = {word: found for word in WORDS if (found := [one for one, said in judged if said == word])}
    return Trust(len(judged), by_word, [one for one, word in judged if not word], absent)


def _least(one: JudgedWriter) -> float:
    return one.arrives.value if np.isfinite(one.arrives.value) else np.inf


def least_arriving_heads(models: Sequence[ModelTables], n: int = _MOST_HEADS) -> list[JudgedWriter]:
    """The heads of all models of whose DLA least arrives, and that is settled, the least first."""
    settled = trust_in(models, heads=True).settled
    found = [one for word in (CANCELLED, REVERSED, PARTLY) for one in settled.get(word, [])]
    return sorted((one for one in found if np.isfinite(one.arrives.value)), key=_least)[:n]


def arisen(one: TrainedModel) -> list[ArisenErasure]:
    """The writer most erased at the last point and the head most erased there, once where it is a head."""
    last = one.points[-1].erased
    writers = dict.fromkeys([last.strongest[0], last.heads.strongest[0]])
    return [_arisen(one, writer) for writer in writers if last.by_writer.get(writer, 0.0) >= NOTICEABLE]


def _arisen(one: TrainedModel, writer: str) -> ArisenErasure:
    shares = [point.erased.by_writer.get(writer, float("nan")) for point in one.points]
    last = shares[-1]
    half = next(at for at, share in enumerate(shares) if share >= HALF * last)
    highest = int(np.nanargmax(shares))
    overshot = shares[highest] - last >= max(_OVERSHOOT * last, NOTICEABLE)
    return ArisenErasure(writer, shares[0], last, half, (highest, shares[highest]) if overshot else None)
