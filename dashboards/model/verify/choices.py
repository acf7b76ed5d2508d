"""What can be chosen of verified writers, and the figure for a choice of which there is nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import ARROW, Control
from erasure_sweep.dashboards.model.verified import first_head
from erasure_sweep.dashboards.plots.theme import figure

_TARGET = "Writer ← erasers (verified only)"
_WRITER = "Writer (verified only)"


Shown = TypeVar("Shown")


def target_control(names: Sequence[str]) -> Control:
    """A choice among verified writers with their erasers; the most erased head is shown first."""
    return Control(_TARGET, names, chosen=first_head([name.partition(ARROW)[0] for name in names]))


def writer_control(names: Sequence[str]) -> Control:
    """A choice among verified writers; the most erased head is shown first."""
    return Control(_WRITER, names, chosen=first_head(names))


def nothing(words: str) -> go.Figure:
    """A figure for a choice of which there is nothing, that says so."""
    note = {"text": words, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    hidden = {"visible": False}
    return figure([], x_title="", y_title="", height=160, xaxis=hidden, yaxis=hidden, annotations=[note])


def drawn(shown: Shown | None, plot: Callable[[Shown], go.Figure]) -> go.Figure:
    return nothing("This was not measured.") if shown is None else plot(shown)
