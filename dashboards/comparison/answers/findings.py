"""What the answers at the top of a comparison say, as plain data: who is erased, whose DLA not to trust, what arose when.

``dashboards/comparison/answers/at_a_glance.py`` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.dashboards.comparison.training import TrainedModel, erased_of
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE, clearly_erased, erasers_of
from erasure_sweep.workers.tables.facts.trust import (
    DEFAULT,
    MISLEADING,
    PARTLY,
    arriving_of,
    trust_of,
    unsettled_of,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import numeric

HALF = 0.5
_MOST_HEADS = 3
_OVERSHOOT = 0.1


class ErasedWriter(NamedTuple):
    """A writer of which something is erased, and the heads that do it, the strongest first.

    Attributes:
        share: what later heads take out of it because they read it; ``centred`` the same with means removed.
        written: the share of it in the stream where it writes; ``remaining`` that at the end.
    """

    model: str
    writer: str
    share: float
    centred: float
    written: float
    remaining: float
    erasers: list[str]


class DistrustedWriter(NamedTuple):
    """A component and the share of its DLA that arrives at the logits, with its interval."""

    model: str
    component: str
    arrives: float
    low: float
    high: float


class Distrust(NamedTuple):
    """What DLA is worth: of ``n`` components, ``bad`` are those where it says what does not happen.

    Attributes:
        partly: those of which a part arrives.
        unsettled: those whose word is not settled.
        absent: models in which this was not measured.
    """

    n: int
    bad: list[DistrustedWriter]
    partly: list[DistrustedWriter]
    unsettled: list[DistrustedWriter]
    absent: list[str]


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


def most_erased_writers(models: Sequence[ModelTables], heads: int = _MOST_HEADS) -> list[ErasedWriter]:
    """The most erased writer of all models, then their most erased heads; none that is not clearly erased."""
    found = [
        (model, writer)
        for name, model in zip(display_names(models), models, strict=True)
        for writer in _erased_writers(name, model)
    ]
    found.sort(key=lambda pair: -pair[1].share)
    of_heads = [pair for pair in found if is_head(pair[1].writer)][:heads]
    chosen = [*found[:1], *(pair for pair in of_heads if pair is not found[0])]
    return [writer._replace(erasers=erasers_of(model.tables, writer.writer) or []) for model, writer in chosen]


def _erased_writers(name: str, model: ModelTables) -> Iterator[ErasedWriter]:
    """A model's, without their erasers."""
    rows = clearly_erased(model.tables)
    columns = ("erased", "erased_centred", "written", "remaining")
    numbers = zip(*(numeric(rows, column).tolist() for column in columns), strict=True)
    for writer, values in zip(rows["writer"].astype(str), numbers, strict=True):
        yield ErasedWriter(name, writer, *values, erasers=[])


def halved(models: Sequence[ModelTables]) -> tuple[int, int]:
    """In how many models later heads take out half of some head's output or more, and in how many heads were measured."""
    heads = [found for model in models if (found := erased_of(model).heads).by_writer]
    return sum(one.strongest[1] >= HALF for one in heads), len(heads)


def distrust(models: Sequence[ModelTables], heads: bool | None = None) -> Distrust:
    """The components of all models in which it was measured, those first of whose DLA the least arrives.

    ``heads``: attention heads alone, or all others alone; None for all.
    """
    judged: list[tuple[DistrustedWriter, str, bool]] = []
    absent = []
    for name, model in zip(display_names(models), models, strict=True):
        words, unsettled = trust_of(model.tables), set(unsettled_of(model.tables))
        absent += [] if words else [name]
        judged += [
            (DistrustedWriter(name, label, *arriving), words[label], label in unsettled)
            for label, arriving in arriving_of(model.tables).items()
            if label in words and heads in (None, is_head(label))
        ]
    judged.sort(key=lambda of: _least(of[0]))
    bad = [one for one, word, _ in judged if word in MISLEADING]
    partly = [one for one, word, _ in judged if word == PARTLY]
    return Distrust(len(judged), bad, partly, [one for one, _, unsettled in judged if unsettled], absent)


def _least(one: DistrustedWriter) -> float:
    return one.arrives if np.isfinite(one.arrives) else np.inf


def least_trusted_heads(models: Sequence[ModelTables], n: int = _MOST_HEADS) -> list[DistrustedWriter]:
    """The heads of all models of whose DLA least arrives, the least first; none of which most does."""
    found = distrust(models, heads=True)
    known = [one for one in (*found.bad, *found.partly) if one.arrives < DEFAULT.holds]
    return sorted(known, key=_least)[:n]


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
