"""Axes of sizes: linear where they are near each other, logarithmic where they are not, 0 as a tick of its own.

A logarithmic axis has no 0. Where there is one, such as the tokens of a model before its training, it stands left of
the smallest number, and a dotted line says that the axis begins behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.dashboards.plots.theme import GREY, shade
from erasure_sweep.dashboards.wording import amount
from erasure_sweep.workers.tables.values import Floats

WIDE = 8.0
"""Numbers further apart than this, from the least to the greatest, stand on a logarithmic axis."""
_MOST_TICKS = 6
_MOST_NAMED = 8
_MARGIN = 0.06
_ZERO_APART = 0.13


class Axis(NamedTuple):
    """Plotly's ``layout`` of an axis, shapes that go with it, and where 0 stands; None on an axis that has one."""

    layout: dict[str, Any]
    shapes: list[dict[str, Any]]
    zero: float | None = None

    def widened(self, share: float) -> Axis:
        """With room on either side, as a share of the whole, for what stands beside the outermost values."""
        low, high = self.layout["range"]
        room = share * (high - low) / (1.0 - 2.0 * share)
        return self._replace(layout=self.layout | {"range": [low - room, high + room]})

    def places(self, values: Iterable[float]) -> list[float]:
        """Where values stand: as they are but for 0."""
        return [self.zero if value == 0 and self.zero is not None else float(value) for value in values]


def axis_for(title: str, values: Iterable[float], *, whole: bool = False, log: bool = False) -> Axis:
    """An axis that shows all ``values``.

    Args:
        values: at least one, none below 0.
        whole: they are few and small, such as layers: each has its tick.
        log: logarithmic however near each other they are.
    """
    distinct = np.unique(np.fromiter(values, dtype=np.float64))
    positive = distinct[distinct > 0]
    if len(positive) and (log or positive[-1] > WIDE * positive[0]):
        return _logarithmic(title, distinct, positive, whole)
    ticks = distinct if whole or len(distinct) == 1 else _nice(distinct[0], distinct[-1])
    reach = _MARGIN * max(distinct[-1] - distinct[0], 0.1 * distinct[-1], 1.0)
    return Axis({"title": {"text": title}, "range": [distinct[0] - reach, distinct[-1] + reach], **_ticks(ticks)}, [])


def _logarithmic(title: str, distinct: Floats, positive: Floats, whole: bool) -> Axis:
    low, high = np.log10(positive[[0, -1]])
    ticks = positive if whole and len(positive) <= _MOST_NAMED else _log_ticks(positive)
    zero = low - max(0.3, _ZERO_APART * (high - low)) if distinct[0] == 0 else None
    left = low if zero is None else zero
    reach = _MARGIN * max(high - left, 0.3)
    layout = {"title": {"text": f"{title} (logarithmic)"}, "type": "log", "range": [left - reach, high + reach]}
    if zero is None:
        return Axis(layout | _ticks(ticks), [])
    return Axis(layout | _ticks(ticks, 10**zero), [_beginning(10 ** ((zero + low) / 2))], float(10**zero))


def _beginning(at: float) -> dict[str, Any]:
    """A dotted line between 0 and where a logarithmic axis begins."""
    line = {"color": shade(GREY, 0.8), "width": 1, "dash": "dot"}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _ticks(ticks: Floats, zero: float | None = None) -> dict[str, Any]:
    names = [amount(tick) for tick in ticks.tolist()]
    before = [] if zero is None else [zero]
    return {
        **{"tickmode": "array", "tickvals": [*before, *ticks.tolist()], "ticktext": [*("0" for _ in before), *names]},
        **{"zeroline": False},
    }


def _log_ticks(positive: Floats) -> Floats:
    """Powers of ten within the numbers; where there are less than two of them, also their halves and fifths."""
    low, high = np.log10(positive[[0, -1]])
    decades = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
    if len(decades) >= 2:
        every = -(-len(decades) // _MOST_TICKS)
        return np.asarray(10.0 ** decades[::every])
    fine = np.outer(10.0 ** np.arange(np.floor(low), np.ceil(high) + 1), [1, 2, 5]).ravel()
    inside = fine[(fine >= positive[0]) & (fine <= positive[-1])]
    return inside if len(inside) >= 2 else positive[[0, -1]] if len(positive) > 1 else positive


def _nice(low: float, high: float) -> Floats:
    """Up to six round numbers between two."""
    rough = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = np.ceil(low / step) * step
    return np.asarray(np.arange(first, high + step / 2, step))
