"""What the answers at the top of a comparison say, as plain data: who is erased, whose DLA not to trust, what arose when.

``dashboards/comparison/answers.py`` puts it into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.dashboards.comparison.strongest_writers import by_strength
from erasure_sweep.dashboards.comparison.training import Trained, erased_of
from erasure_sweep.dashboards.model.trust import CANCELLED, PARTLY, REVERSED, settled, survival_of, trust_of
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.model_tables import ModelTables, kind_of, numeric, reading_of, strings, writers_table
from erasure_sweep.dashboards.plots.strips import NOTICEABLE

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


class Distrusted(NamedTuple):
    """A component and the share of its DLA's effect that survives what comes later, with its interval."""

    model: str
    component: str
    survives: float
    low: float
    high: float


class Distrust(NamedTuple):
    """What resampling says of DLA: of ``n`` components, ``bad`` are those of which nothing of it is left, or the opposite.

    Attributes:
        partly: those that have a part left.
        unsettled: those whose interval holds more than one word.
        absent: models in which this was not measured.
    """

    n: int
    bad: list[Distrusted]
    partly: list[Distrusted]
    unsettled: list[Distrusted]
    absent: list[str]


class Arisen(NamedTuple):
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
    """The most erased writer of all models, then their most erased heads; none of which less than a hundredth is erased."""
    found = []
    for at, model in enumerate(models):
        shares = numeric(writers_table(model), "erased_by_reading")
        found += [(float(shares[row]), at, int(row)) for row in np.flatnonzero(np.nan_to_num(shares) >= NOTICEABLE)]
    found.sort(key=lambda one: -one[0])
    names = display_names(models)
    return [_erased_writer(names[at], models[at], row) for _, at, row in _first_heads(found, models, heads)]


def _first_heads(
    found: Sequence[tuple[float, int, int]], models: Sequence[ModelTables], heads: int
) -> list[tuple[float, int, int]]:
    of_heads = [one for one in found if kind_of(str(writers_table(models[one[1]])["writer"].iloc[one[2]])) == "head"]
    return [*found[:1], *(one for one in of_heads[:heads] if one not in found[:1])]


def _erased_writer(name: str, model: ModelTables, row: int) -> ErasedWriter:
    table = writers_table(model)
    writer = str(table["writer"].iloc[row])
    columns = ("erased_by_reading", "erased_by_reading_centred", "written", "remaining")
    share, centred, written, remaining = (float(numeric(table, column)[row]) for column in columns)
    erasers = by_strength(reading_of(model), writer, strings(table, "erasers")[row]) or []
    return ErasedWriter(name, writer, share, centred, written, remaining, erasers)


def halved(models: Sequence[ModelTables]) -> tuple[int, int]:
    """In how many models later heads take out half of some head's output or more, and in how many heads were measured."""
    heads = [found for model in models if (found := erased_of(model).heads).by_writer]
    return sum(one.strongest[1] >= HALF for one in heads), len(heads)


def distrust(models: Sequence[ModelTables], heads: bool | None = None) -> Distrust:
    """The components of all models in which resampling was measured, those with the least that survives first.

    ``heads``: attention heads alone, or all others alone; None for all.
    """
    told: list[tuple[Distrusted, str]] = []
    absent = []
    for name, model in zip(display_names(models), models, strict=True):
        words = trust_of(model)
        absent += [] if words else [name]
        told += [
            (Distrusted(name, label, *survival), words[label])
            for label, survival in survival_of(model).items()
            if label in words and heads in (None, kind_of(label) == "head")
        ]
    told.sort(key=lambda pair: _least(pair[0]))
    bad = [one for one, word in told if word in (CANCELLED, REVERSED)]
    partly = [one for one, word in told if word == PARTLY]
    return Distrust(len(told), bad, partly, [one for one, _ in told if not settled(one.low, one.high)], absent)


def _least(one: Distrusted) -> float:
    return one.survives if np.isfinite(one.survives) else np.inf


def least_trusted_heads(models: Sequence[ModelTables], n: int = _MOST_HEADS) -> list[Distrusted]:
    """The heads of all models of whose DLA least survives, the least first; none that can be trusted."""
    found = distrust(models, heads=True)
    known = [one for one in (*found.bad, *found.partly) if np.isfinite(one.survives)]
    return sorted(known, key=_least)[:n]


def arisen(one: Trained) -> list[Arisen]:
    """The writer most erased at the last point and the head most erased there, once where it is a head."""
    last = one.points[-1].erased
    writers = dict.fromkeys([last.strongest[0], last.heads.strongest[0]])
    return [_arisen(one, writer) for writer in writers if last.by_writer.get(writer, 0.0) >= NOTICEABLE]


def _arisen(one: Trained, writer: str) -> Arisen:
    shares = [point.erased.by_writer.get(writer, float("nan")) for point in one.points]
    last = shares[-1]
    half = next(at for at, share in enumerate(shares) if share >= HALF * last)
    highest = int(np.nanargmax(shares))
    overshot = shares[highest] - last >= max(_OVERSHOOT * last, NOTICEABLE)
    return Arisen(writer, shares[0], last, half, (highest, shares[highest]) if overshot else None)
