"""The tables of an audit as its figures take them, and its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from erasure_sweep.dashboards.cards import Page
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.trust import HOLDS
from erasure_sweep.workers.tables.values import numeric, strings

LEAST_SHARE = 0.02
"""Of the largest bar: components whose DLA and effect are both smaller are folded into one."""
MOST_BARS = 25
MOST_OFFERED = 24
"""Of how many components the page has a figure each."""
MOST_PATTERNS = 8
BASELINES = {
    "mean": "its mean over a reference text",
    "resample": "what it writes in other texts",
    "corrupted": "what it writes in the corrupted prompt",
    "zero": "zero",
}
"""What takes a component's place, by baseline."""


class Pattern(NamedTuple):
    """A head's attention over the tokens of a prompt."""

    tokens: Sequence[str]
    weights: NDArray[np.float64]
    """[query, key]"""


@dataclass(frozen=True)
class AuditView:
    """An audit as its figures take it."""

    model: str
    baseline: str
    n_prompts: int
    n_donors: int
    """Of each prompt."""
    question: str
    """Which logits are set against each other, in words."""
    prompts: Sequence[str]
    """Texts, the measured token last."""
    components: pd.DataFrame
    mediation: pd.DataFrame
    states: pd.DataFrame
    logit_difference: tuple[float, float, float]
    """With its interval."""
    pattern: Callable[[str, int], Pattern] = field(repr=False)
    """Of a head at a prompt."""
    known: dict[str, str] = field(default_factory=dict)
    """What a sweep of the model says of its components."""

    @cached_property
    def by_size(self) -> list[str]:
        """Components, the longest bar first."""
        return sorted(self.rows, key=lambda name: -abs(self.rows[name].dla))

    @cached_property
    def shown(self) -> list[str]:
        """Components with a bar of their own: those whose bar or effect is the largest, the longest bar first."""
        sizes = {name: float(np.fmax(abs(row.dla), abs(row.effect))) for name, row in self.rows.items()}
        least = LEAST_SHARE * max(sizes.values(), default=0.0)
        largest = sorted((name for name in sizes if sizes[name] > least), key=lambda name: -sizes[name])[:MOST_BARS]
        return [name for name in self.by_size if name in largest]

    @cached_property
    def rows(self) -> dict[str, Row]:
        """What the figures need of each component."""
        table = self.components
        numbers = [numeric(table, name).tolist() for name in Row._fields[:7]]
        words = strings(table, "word")
        sure = [value == "True" for value in strings(table, "settled")]
        rows = (Row(*values) for values in zip(*numbers, words, sure, strict=True))
        return dict(zip(table["component"].astype(str), rows, strict=True))

    @property
    def offered(self) -> list[str]:
        """Components with a waterfall on the page."""
        return [name for name in self.shown if self.rows[name].word][:MOST_OFFERED]

    @property
    def heads(self) -> list[str]:
        """Heads with a pattern on the page."""
        return [name for name in self.shown if is_head(name)][:MOST_PATTERNS]

    @property
    def doubtful(self) -> list[str]:
        """Components whose bar is not what arrives, the longest first."""
        return [name for name in self.shown if self.rows[name].word not in (None, HOLDS)]

    def named(self, component: str) -> str:
        """A component with the word of its bar; a question mark where that is not settled."""
        row = self.rows[component]
        return component if row.word is None else f"{component} · {row.word}{'' if row.settled else '?'}"


class Row(NamedTuple):
    """A component's numbers, NaN where it has none."""

    dla: float
    kept: float
    direct: float
    effect: float
    effect_low: float
    effect_high: float
    net: float
    word: str | None
    settled: bool


def logits(value: float) -> str:
    """A number of logits with its sign."""
    return f"{'+' if value > 0 else ''}{number(value)}"


AUDIT: Page[AuditView] = Page("erasure_sweep.dashboards.audit", ("",))
