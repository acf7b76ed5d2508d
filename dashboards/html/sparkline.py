"""A line as small as a word, for a cell of a table: inline SVG in the colour of the text around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erasure_sweep.dashboards.html.cards import Markup, escape
from erasure_sweep.dashboards.model_tables import Floats

_WIDTH, _HEIGHT = 96, 24
_EDGE = 3
_MARKS = (0.0, 1.0)


def sparkline(values: Sequence[float] | Floats, low: float, high: float, label: str) -> Markup:
    """A line through ``values`` in even steps, with gaps where they are NaN and a dot at the last that is known.

    Args:
        values: what is drawn, first to last; beyond ``low`` to ``high`` they stand at the edge.
        low: what the bottom stands for; ``high`` is the top. Between them 0 and 1 are faint lines.
        label: what it shows in words, for those who do not see it.
    """
    known = [bool(np.isfinite(value)) for value in values]
    at = [(_x(index, len(values)), _y(value, low, high)) for index, value in enumerate(values)]
    marks = "".join(_mark(_y(mark, low, high)) for mark in _MARKS if low <= mark <= high)
    last = max((index for index, ok in enumerate(known) if ok), default=None)
    dot = "" if last is None else f'<circle cx="{at[last][0]:g}" cy="{at[last][1]:g}" r="2.2" fill="currentColor"/>'
    drawn = _path(at, known)
    style = 'fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"'
    path = f'<path d="{drawn}" {style}/>' if drawn else ""
    return Markup(
        f'<svg class="sparkline" role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}"><title>{escape(label)}</title>{marks}{path}{dot}</svg>'
    )


def _x(index: int, n_values: int) -> float:
    return round(_EDGE + (_WIDTH - 2 * _EDGE) * (index / (n_values - 1) if n_values > 1 else 0.5), 1)


def _y(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
    return round(_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * share, 1)


def _mark(y: float) -> str:
    return f'<line x1="0" x2="{_WIDTH}" y1="{y:g}" y2="{y:g}" stroke="currentColor" stroke-opacity=".25"/>'


def _path(at: Sequence[tuple[float, float]], known: Sequence[bool]) -> str:
    steps = []
    for index, ((x, y), ok) in enumerate(zip(at, known, strict=True)):
        if ok:
            # a pen that was lifted at a gap is set down anew; the short stroke shows a value that stands alone
            joined = index > 0 and known[index - 1]
            steps.append(f"L{x:g} {y:g}" if joined else f"M{x:g} {y:g}h.01")
    return "".join(steps)
