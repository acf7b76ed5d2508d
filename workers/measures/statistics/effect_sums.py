"""Sums over tokens of what direct logit attribution (DLA) says of a writer and of what happens, and the word that follows.

d is how much the writer's DLA changes where something takes its place, e how much the logit difference does; the rule of the
word is in ``tables.facts.trust``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.measures.statistics.jackknife import (
    FISHER,
    LOG,
    PLAIN,
    STRONGEST,
    Estimate,
    Scale,
    Statistic,
    jackknife,
)
from erasure_sweep.workers.measures.statistics.moments import CONSTANT
from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.facts.trust import Rule, TrustEnds, TrustNumbers, is_settled, trust_word


class TokenSums(NamedTuple):
    """Sums over tokens: of a writer, at the measured tokens of a prompt, or of many."""

    n: Any
    """How many tokens."""
    dla_sq: Any
    """Σ DLA²."""
    direct_sq: Any
    """Σ d²."""
    effect_sq: Any
    """Σ e²."""
    product: Any
    """Σ d·e."""
    dla_abs: Any
    """Σ |DLA|."""
    effect_abs: Any
    """Σ |e|."""


class Judged(NamedTuple):
    """What is said of a writer's DLA."""

    numbers: dict[str, Estimate]
    """``share``, ``r``, ``size``, ``concordance`` and ``constant``, with their intervals."""
    word: str | None
    """``None`` where there is nothing to tell it by."""
    settled: bool | None
    """Whether the word is the same all over the intervals; ``None`` where one is missing that could decide it."""


def judge(
    sums: Float[np.ndarray, "prompt sum"],
    limits: TrustThresholds,
    share: Statistic | None = None,
    rule: Rule = trust_word,
) -> Judged:
    """The word that a writer's sums give, and how sure it is.

    Args:
        sums: as ``TokenSums``, and behind them what ``share`` needs.
        share: the share that arrives, by another definition.
        rule: from numbers to the word.
    """
    statistics = {**STATISTICS, **({} if share is None else {"share": (share, PLAIN)})}
    found = {name: Estimate(*map(float, jackknife(sums, *of))) for name, of in statistics.items()}
    ends = TrustEnds(*((found[name].low, found[name].high) for name in TrustEnds._fields))
    word = rule(TrustNumbers(*(found[name].value for name in TrustNumbers._fields)), limits)
    r, varying = found["r"], found.pop("varying")
    if (
        abs(r.value) >= STRONGEST
    ):  # Fisher's z of it is infinite; whether anything varies at all, the share's interval says
        ends = ends._replace(r=(r.value, r.value))
    if varying.value <= CONSTANT:  # it varies by rounding alone, whatever rounding's logarithm does
        ends = ends._replace(varying=(0.0, CONSTANT))
    found["constant"] = Estimate(1.0 - varying.value, 1.0 - varying.high, 1.0 - varying.low)
    return Judged(found, word, None if word is None else is_settled(ends, limits, rule))


def numbers_of(sums: Float[np.ndarray, "sum"]) -> TrustNumbers:
    """What a word follows from, without intervals."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return TrustNumbers(*(float(STATISTICS[name][0](sums)) for name in TrustNumbers._fields))


def _varying(sums: Float[np.ndarray, "sum *batch"]) -> Float[np.ndarray, "*batch"]:
    of = _named(sums)
    return np.asarray(of.direct_sq / of.dla_sq)


def _of_varying(statistic: Callable[[TokenSums], Any]) -> Statistic:
    """A number that there is where more of the DLA varies than rounding."""
    return lambda sums: np.where(_varying(sums) > CONSTANT, statistic(_named(sums)), np.nan)


def _named(sums: Float[np.ndarray, "sum *batch"]) -> TokenSums:
    return TokenSums(*sums[: len(TokenSums._fields)])


STATISTICS: Mapping[str, tuple[Statistic, Scale]] = {
    "varying": (_varying, LOG),
    "share": (_of_varying(lambda of: of.product / of.direct_sq), PLAIN),
    "r": (_of_varying(lambda of: of.product / np.sqrt(of.direct_sq * of.effect_sq)), FISHER),
    "size": (_of_varying(lambda of: np.sqrt(of.effect_sq / of.direct_sq)), LOG),
    "concordance": (_of_varying(lambda of: 2.0 * of.product / (of.direct_sq + of.effect_sq)), PLAIN),
}
