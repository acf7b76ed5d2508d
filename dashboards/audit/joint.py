"""Several components ablated together: what DLA says of them, and who answers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.waterfall import Step, answers, steps_figure
from erasure_sweep.dashboards.wording import number, with_interval
from erasure_sweep.workers.tables.values import numeric


def joint_figure(
    members: Sequence[str], table: pd.DataFrame, effect: tuple[float, float, float], alone: float
) -> go.Figure:
    """The members' DLA, plus what everything else does when they are gone, is the effect."""
    parts = dict(zip(table["component"].astype(str), numeric(table, "part").tolist(), strict=True))
    others = {name: value for name, value in parts.items() if name not in members}
    together = " + ".join(members)
    sentence = f"Ablating {together} together takes {with_interval(*effect)} logits; each alone {number(alone)} in sum."
    steps: list[Step] = [(name, parts[name], "relative") for name in members]
    return steps_figure([*steps, *answers(others)], effect[0], sentence)
