"""Strips of writers, model by model: what the figures of what is erased, opposed and taken back share."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from erasure_sweep.dashboards.comparison.view import ComparisonView
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.writer_strips import StripColumn, most_points, plot_strips, strip_points
from erasure_sweep.dashboards.wording import first_of
from erasure_sweep.workers.tables.facts.erasure import writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_FEW_STRIPS_PX = 1000
_LEAST_STRIP_PX = 24


def named_writers(models: Sequence[ModelTables]) -> list[tuple[str, pd.DataFrame]]:
    """Each model's name and its ``writers`` table: the strips of a figure of writers."""
    return [(name, writers_by_rank(model.tables)) for name, model in zip(display_names(models), models, strict=True)]


def strip_card(
    view: ComparisonView, measure: StripColumn, title: str, caption: str, unmeasured: str, empty: str
) -> Card:
    strips = named_writers(view.shown)
    names = [name for name, _ in strips]
    most = most_points(len(strips))
    both = [strip_points(strips, measure, centred, most) for centred in (False, True)]
    figures = {str(index): plot_strips(points, names, measure) for index, points in enumerate(both) if len(points)}
    absent = [name for name in names if name not in set(both[0]["group"])]
    left_out = f" {unmeasured}: {first_of(absent)}." if absent else ""
    return Card(
        title,
        f"{caption} {what_is_drawn(most, measure)} 'Means removed' leaves out what is the same at every token."
        f"{left_out}{view.note}",
        figures,
        [OUTPUTS] if len(figures) > 1 else [],
        min_width=strips_width(len(names)),
        empty=empty,
        tables=("writers",),
    )


def what_is_drawn(most: int, measure: StripColumn) -> str:
    return (
        "Grey boxes span the quartiles of the writers drawn. Hollow points lie beyond the axis; their value is under the "
        f"pointer. Of a model with more than {most} writers those with the {'lowest' if measure.sign < 0 else 'highest'} "
        "values are drawn, and an even sample of the rest."
    )


def strips_width(n_strips: int) -> int:
    """Pixels that so many strips need to be told apart."""
    return min(90 * n_strips, max(_FEW_STRIPS_PX, _LEAST_STRIP_PX * n_strips))
