"""Bands between two lines over named places, such as states of the residual stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.plots.theme import single, text
from erasure_sweep.workers.tables.values import Floats

STATE_TITLE = "state of the residual stream"


def band(states: list[str], low: Floats, high: Floats, fill: str, group: str) -> list[Any]:
    """A filled band between two lines over named places, of the legend's ``group``."""
    seen = np.isfinite(low) & np.isfinite(high)
    x = [state for state, ok in zip(states, seen, strict=True) if ok]
    outline = np.concatenate([high[seen], low[seen][::-1]])
    style = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": fill, "hoverinfo": "skip"}
    return [go.Scatter(x=x + x[::-1], y=single(outline), showlegend=False, legendgroup=text(group), **style)]
