"""Models side by side: the comparison's parts in reading order, and the strips of writers model by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from erasure_sweep.dashboards.comparison.answers import answers
from erasure_sweep.dashboards.comparison.causal_maps import causal_card
from erasure_sweep.dashboards.comparison.depth import depth_card, removed_card
from erasure_sweep.dashboards.comparison.layers import layers_card
from erasure_sweep.dashboards.comparison.overview import overview
from erasure_sweep.dashboards.comparison.protocols import protocols_table
from erasure_sweep.dashboards.comparison.sizes import size_card
from erasure_sweep.dashboards.comparison.strongest_writers import strongest_table
from erasure_sweep.dashboards.comparison.training import training_card
from erasure_sweep.dashboards.comparison.verify import significant_card, trust_card
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import Card, Control, Part
from erasure_sweep.dashboards.model.reading_cards import OUTPUTS
from erasure_sweep.dashboards.model.writers_table import first_of
from erasure_sweep.dashboards.model_names import display_names, is_checkpoint, representatives
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.strips import (
    DLA_R,
    DLA_SLOPE,
    ERASED,
    OPPOSED,
    Measure,
    most_points,
    plot_strips,
    strip_points,
)
from erasure_sweep.dashboards.wording import listed
from erasure_sweep.workers.tables.facts.erasure import writers_by_rank

_FEW_STRIPS_PX = 1000
_LEAST_STRIP_PX = 24


def comparison_parts(models: Sequence[ModelTables], homes: Mapping[str, Home], sweep: dict[str, Any]) -> list[Part]:
    """The comparison's tables and figures in reading order: answers, the figures they rest on, the models, the rest.

    Training stands before size where most models are checkpoints, and late where nothing of it was measured.

    Args:
        homes: by display name, where a model's page, tables and run are.
        sweep: the manifest, or what several sweeps share.
    """
    # a model keeps its name also where only some of the models are shown
    names = display_names(models)
    models = [
        ModelTables({**model.about, "name": name}, model.tables) for name, model in zip(names, models, strict=True)
    ]
    shown = representatives(models)
    note = _note(models, shown)
    training = training_card(models)
    early = 2 * sum(is_checkpoint(model.about) for model in models) > len(models)
    after = not early and bool(training.figures)
    return [
        answers(models, homes),
        *([training] if early else []),
        size_card(models),
        *([training] if after else []),
        overview(models, homes),
        _noted(layers_card(shown), note),
        _noted(_erased_card(shown), note),
        _noted(strongest_table(shown, homes), note),
        causal_card(models),
        _noted(trust_card(shown), note),
        _noted(_dla_card(shown), note),
        *([] if early or after else [training]),
        _noted(_opposed_card(shown), note),
        _noted(depth_card(shown), note),
        _noted(removed_card(shown), note),
        _noted(significant_card(shown), note),
        protocols_table(models, homes, sweep),
    ]


def _note(models: Sequence[ModelTables], shown: Sequence[ModelTables]) -> str:
    """Which models stand for all, in words; nothing where all are shown."""
    if len(shown) == len(models):
        return ""
    unfinished = [str(model.about["name"]) for model in shown if is_checkpoint(model.about)]
    last = f" ({listed(unfinished, 3)} for lack of them)" if unfinished else ""
    return f" Final weights only{last}."


def _noted(part: Part, note: str) -> Part:
    return replace(part, caption=f"{part.caption}{note}")


def named_writers(models: Sequence[ModelTables]) -> list[tuple[str, pd.DataFrame]]:
    """Each model's name and its ``writers`` table: the strips of a figure of writers."""
    return [(name, writers_by_rank(model.tables)) for name, model in zip(display_names(models), models, strict=True)]


def _erased_card(models: Sequence[ModelTables]) -> Card:
    return _strip_card(
        models,
        ERASED,
        "How much of the writers is erased by reading",
        "Each point is a writer: how much all later heads together write against it because they read it, as a share of its "
        "output, pooled over all tokens (−β of their V-composed part: 1 is all of it, above 1 more than it wrote; below 0 "
        "they add to it).",
        "Without a writer for which this was measured",
        "This was not measured in any model, or none has a writer with a later attention layer.",
    )


def _opposed_card(models: Sequence[ModelTables]) -> Card:
    return _strip_card(
        models,
        OPPOSED,
        "How much writers are opposed",
        "Each point is a writer: the sum of what later components write against it, whether they read it or not, as a "
        "share of its own output (0: nobody does; −1: as much as it wrote; below −1: more than it wrote).",
        "Without a measured writer",
        "No model has a measured writer.",
    )


def _strip_card(
    models: Sequence[ModelTables], measure: Measure, title: str, caption: str, unmeasured: str, empty: str
) -> Card:
    strips = named_writers(models)
    names = [name for name, _ in strips]
    most = most_points(len(strips))
    both = [strip_points(strips, measure, centred, most) for centred in (False, True)]
    figures = {}
    if len(both[0]):
        figures = {str(index): plot_strips(points, names, measure) for index, points in enumerate(both)}
    absent = [name for name in names if name not in set(both[0]["group"])]
    said = f" {unmeasured}: {first_of(absent)}." if absent else ""
    return Card(
        measure.column.partition("_")[0],
        title,
        f"{caption} {_drawn(most, measure)} 'Means removed' leaves out what is the same at every token.{said}",
        figures,
        [OUTPUTS] if figures else [],
        min_width=_width(len(names)),
        empty=empty,
        tables=("writers",),
    )


def _dla_card(models: Sequence[ModelTables]) -> Card:
    strips = named_writers(models)
    names, most = [name for name, _ in strips], most_points(len(strips))
    drawn = [(measure, strip_points(strips, measure, most=most)) for measure in (DLA_SLOPE, DLA_R)]
    shown = [(measure, points) for measure, points in drawn if len(points)]
    with_points = {group for _, points in shown for group in points["group"]}
    absent = [name for name in names if name not in with_points]
    said = f" Not measured: {first_of(absent)}." if absent else ""
    return Card(
        "dla",
        "How much of writers' DLA later heads take back",
        "Each point is a writer. Its direct logit attribution (DLA) is its own part of the difference of the logits of the "
        "two most likely next tokens; beside it stands the part of what all later heads write because they read it. Slope: "
        "how much of the latter there is per unit of the former; 0 leaves its DLA as it is, −1 takes all of it back, below "
        "−1 more. r: how well that line fits, from −1 to 1; where it is near 0 the slope says little. "
        f"{_drawn(most, DLA_SLOPE)}{said}",
        {str(at): plot_strips(points, names, measure) for at, (measure, points) in enumerate(shown)},
        [Control("Shown", [measure.name for measure, _ in shown])] if shown else [],
        min_width=_width(len(names)),
        empty="This was not measured in any model, or none has a writer with a later attention layer.",
        tables=("writers", "dla_correlation"),
    )


def _drawn(most: int, measure: Measure) -> str:
    return (
        "Grey boxes span the quartiles of the writers drawn. Hollow points lie beyond the axis; their value is under the "
        f"pointer. Of a model with more than {most} writers those with the {'lowest' if measure.sign < 0 else 'highest'} "
        "values are drawn, and an even sample of the rest."
    )


def _width(n_strips: int) -> int:
    """Pixels that so many strips need to be told apart."""
    return min(90 * n_strips, max(_FEW_STRIPS_PX, _LEAST_STRIP_PX * n_strips))
