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

LEAST_SHARE = 0.05
"""Of the largest bar: shorter ones are folded into one, but for those with the largest effects."""
PARTIAL = 1 / 3
"""Of a bar: where the ablation leaves more, or turns the rest round, the word is not of the bar as it is drawn."""
OF_PART = " (part)"
MOST_BARS = 25
MOST_INDIRECT = 10
INDIRECT = "through others"
"""What is said of a component with next to no bar and a large effect: others read it, and DLA cannot show that."""
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
    def long_bars(self) -> list[str]:
        """Components with bars to believe or not, the longest first."""
        longest = max((abs(row.dla) for row in self.rows.values()), default=0.0)
        return [name for name in self.by_size if abs(self.rows[name].dla) > LEAST_SHARE * longest][:MOST_BARS]

    @cached_property
    def indirect(self) -> list[str]:
        """Components with next to no bar and an effect as large as a bar that is shown, the largest effect first."""
        longest = max((abs(row.dla) for row in self.rows.values()), default=0.0)
        effects = {name: abs(row.effect) for name, row in self.rows.items() if name not in self.long_bars}
        large = [
            name
            for name, effect in effects.items()
            if effect > max(LEAST_SHARE * longest, 3 * abs(self.rows[name].dla))
        ]
        return sorted(large, key=lambda name: -effects[name])[:MOST_INDIRECT]

    @property
    def shown(self) -> list[str]:
        """Components with a row of their own."""
        return [*self.long_bars, *self.indirect]

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
        return [name for name in self.long_bars if self.rows[name].word not in (None, HOLDS)]

    def named(self, component: str) -> str:
        """A component with the word of its bar; a question mark where that is not settled."""
        row = self.rows[component]
        if component in self.indirect:
            return f"{component} · {INDIRECT}"
        if row.word is None:
            return component
        return f"{component} · {row.word}{'' if row.settled else '?'}{OF_PART if row.is_partial else ''}"


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

    @property
    def is_partial(self) -> bool:
        """Whether much of the bar is left by the ablation: the word is of the rest."""
        return abs(self.kept) > PARTIAL * abs(self.dla)


def logits(value: float) -> str:
    """A number of logits with its sign."""
    return f"{'+' if value > 0 else ''}{number(value)}"


AUDIT: Page[AuditView] = Page("erasure_sweep.dashboards.audit", ("",))
