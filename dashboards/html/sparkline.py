"""A line as small as a word, for a cell of a table: inline SVG in the colour of the text around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from erasure_sweep.dashboards.html.render import render
from erasure_sweep.workers.tables.values import Floats

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
    points = [(_x(index, len(values)), _y(value, low, high)) for index, value in enumerate(values)]
    last = max((index for index, ok in enumerate(known) if ok), default=None)
    return render(
        "sparkline.svg.j2",
        label=label,
        width=_WIDTH,
        height=_HEIGHT,
        marks=[_y(mark, low, high) for mark in _MARKS if low <= mark <= high],
        path=_path(points, known),
        dot=None if last is None else points[last],
    )


def _x(index: int, n_values: int) -> float:
    return round(_EDGE + (_WIDTH - 2 * _EDGE) * (index / (n_values - 1) if n_values > 1 else 0.5), 1)


def _y(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
    return round(_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * share, 1)


def _path(points: Sequence[tuple[float, float]], known: Sequence[bool]) -> str:
    steps = []
    for index, ((x, y), ok) in enumerate(zip(points, known, strict=True)):
        if ok:
            # a pen that was lifted at a gap is set down anew; the short stroke shows a value that stands alone
            joined = index > 0 and known[index - 1]
            steps.append(f"L{x:g} {y:g}" if joined else f"M{x:g} {y:g}h.01")
    return "".join(steps)
