"""How erasure arises in training: checkpoints of one model side by side, against the tokens that they were trained on.

What is drawn of a model: the writers that are most erased at its last point, each through training; the median over its heads;
and how many pairs of a writer and a later head are significant. Means are removed where that was measured at every point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model_names import display_names, is_checkpoint, series_of
from erasure_sweep.dashboards.plots.size_axis import Axis, axis_for
from erasure_sweep.dashboards.plots.theme import (
    BLUE,
    CYCLE,
    DASHES,
    GREEN,
    SYMBOLS,
    error_bars,
    figure,
    robust_range,
    single,
    text,
)
from erasure_sweep.dashboards.wording import amount, first_of, number, with_interval
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE, erased_shares, significant_pairs
from erasure_sweep.workers.tables.facts.heads import head_shares, quantile_of
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats

LIMIT = 4.0
"""Where axes of shares end: beyond it are writers that write next to nothing."""
_LINES = 6
_FEW = 8
_KEPT = (0.0, 0.2)

Unit = Literal["tokens", "steps"]


class ErasedShares(NamedTuple):
    """What is erased of each measured writer, as a share of its output."""

    by_writer: dict[str, float]

    @property
    def strongest(self) -> tuple[str, float]:
        """The most erased writer and its share; NaN where none was measured."""
        return max(self.by_writer.items(), key=lambda item: item[1], default=("", float("nan")))

    @property
    def heads(self) -> ErasedShares:
        """The attention heads among them."""
        return ErasedShares({writer: share for writer, share in self.by_writer.items() if is_head(writer)})


def erased_of(model: ModelTables, centred: bool = False) -> ErasedShares:
    """The finite ``erased`` of a model's ``writers``; ``centred``: with means removed."""
    return ErasedShares(erased_shares(model.tables, centred=centred))


class TrainingPoint(NamedTuple):
    """A model at one point of its training: after ``at`` tokens or steps.

    Attributes:
        median: over its heads; NaN where none was measured.
        n_heads: how many these are.
        significant: pairs of a writer and a head that are significant, NaN where that was not tested.
    """

    model: str
    at: int
    erased: ErasedShares
    median: Interval
    n_heads: int
    significant: float


class TrainedModel(NamedTuple):
    """One model through its training, two points or more in order."""

    name: str
    unit: Unit
    points: list[TrainingPoint]


class WriterLine(NamedTuple):
    """A writer's share erased at every point; NaN where it was not measured."""

    writer: str
    shares: Floats


def trained(models: Sequence[ModelTables]) -> list[TrainedModel]:
    """Models of which two points of training or more were measured: by tokens, or steps where tokens are not known.

    Of two models at the same point, such as a checkpoint and the final weights, the first stands.
    """
    members: dict[str, list[tuple[str, ModelTables]]] = {}
    for name, model in zip(display_names(models), models, strict=True):
        members.setdefault(series_of(model.about), []).append((name, model))
    units: tuple[Unit, ...] = ("tokens", "steps")
    found = []
    for series, named in members.items():
        candidates = [TrainedModel(series, unit, _points(named, unit, _has_centred(named))) for unit in units]
        found += [one for one in candidates if len(one.points) > 1][:1]
    return found


def _has_centred(named: Sequence[tuple[str, ModelTables]]) -> bool:
    """Whether all points that were measured were measured with means removed."""
    return all(erased_of(model, centred=True).by_writer for _, model in named if erased_of(model).by_writer)


def _points(named: Sequence[tuple[str, ModelTables]], unit: Unit, centred: bool) -> list[TrainingPoint]:
    points: dict[int, TrainingPoint] = {}
    for name, model in named:
        at, erased = getattr(model.about, f"training_{unit}"), erased_of(model, centred)
        if at is not None and at >= 0 and erased.by_writer:
            pairs = significant_pairs(model.tables)
            significant = float("nan") if pairs is None else float(pairs.n)
            heads = head_shares(model.tables, centred=centred)
            median = quantile_of(heads, 0.5)
            points.setdefault(at, TrainingPoint(name, at, erased, median, len(heads.labels), significant))
    return [points[at] for at in sorted(points)]


def writer_lines(one: TrainedModel, most: int = _LINES) -> list[WriterLine]:
    """The writers most erased at the last point, the strongest first; none of which next to nothing is erased there."""
    last = one.points[-1].erased.by_writer
    strongest = [writer for writer in sorted(last, key=lambda writer: -last[writer]) if last[writer] >= NOTICEABLE]
    return [
        WriterLine(writer, np.array([point.erased.by_writer.get(writer, np.nan) for point in one.points]))
        for writer in strongest[:most]
    ]


def plot_writers(one: TrainedModel, y_range: list[float]) -> go.Figure:
    """The most erased writers, a line each."""
    axis = _axis(one)
    lines = writer_lines(one)
    data = [
        _line(one, axis, line.shares, line.writer, (CYCLE[at % len(CYCLE)], at), "%{y:.3f} erased")
        for at, line in enumerate(lines)
    ]
    listed = [f"{line.writer}\u00a0{number(line.shares[0])}\u00a0→\u00a0{number(line.shares[-1])}" for line in lines]
    beginning = f"Most erased at the end, with their shares after {when(one, 0)} → {when(one, -1)}: "
    sentence = f"{beginning}{', '.join(listed)}." if lines else f"No writer is erased in {one.points[-1].model}."
    return _plot(axis, data, {"range": y_range}, "erased<br>(share of the writer's output)", sentence)


def plot_median(one: TrainedModel, y_range: list[float]) -> go.Figure:
    """The median over heads, with its interval over prompts."""
    axis = _axis(one)
    medians = np.array([point.median.value for point in one.points])
    counts = [amount(point.n_heads) for point in one.points]
    line = _line(one, axis, medians, "median", (BLUE, 0), "%{y:.3f}, median over %{customdata} heads", counts)
    line.error_y = error_bars([point.median for point in one.points])
    ends = [f"{with_interval(*one.points[at].median)} after {when(one, at)}" for at in (0, -1)]
    sentence = f"Erased, the median over {counts[-1]} heads: {', '.join(ends)}."
    return _plot(
        axis, [line], {"range": y_range}, "erased, median over heads<br>(share of the head's output)", sentence
    )


def plot_significant(one: TrainedModel, y_range: list[float]) -> go.Figure:
    """How many pairs of a writer and a later head are significant."""
    axis = _axis(one)
    counts = np.array([point.significant for point in one.points])
    data = [_line(one, axis, counts, "significant erasers", (GREEN, 0), "%{y:,.0f} significant erasers")]
    known = np.flatnonzero(np.isfinite(counts))
    ends = [f"{amount(counts[at])} after {when(one, at)}" for at in known[[0, -1][: len(known)]]] if len(known) else []
    sentence = f"Significant erasers: {', '.join(ends)}." if ends else f"Not tested in {one.name}."
    # few whole numbers have whole ticks
    y_axis = {"range": y_range, **({"dtick": 1} if y_range[1] < _FEW else {})}
    return _plot(axis, data, y_axis, "significant erasers<br>(pairs of writer and head)", sentence)


def _axis(one: TrainedModel) -> Axis:
    return axis_for(f"training {one.unit}", [point.at for point in one.points], log=True)


def when(one: TrainedModel, at: int) -> str:
    """A point of a training in words."""
    return f"{amount(one.points[at].at)} {one.unit}"


def _line(
    one: TrainedModel,
    axis: Axis,
    values: Floats,
    name: str,
    look: tuple[str, int],
    hover: str,
    numbers: Sequence[str] | None = None,
) -> go.Scatter:
    colour, at = look
    return go.Scatter(
        x=axis.places(point.at for point in one.points),
        y=single(values),
        name=text(name),
        hovertext=[f"{text(point.model)}<br>after {point.at:,} {one.unit}" for point in one.points],
        customdata=numbers,
        mode="lines+markers",
        line={"color": colour, "dash": DASHES[at % len(DASHES)], "width": 2},
        marker={"color": colour, "symbol": SYMBOLS[at % len(SYMBOLS)], "size": 8},
        hovertemplate=f"<b>{text(name)}</b>: {hover}<br>%{{hovertext}}<extra></extra>",
    )


def _plot(axis: Axis, data: list[go.Scatter], y_axis: dict[str, Any], y_title: str, sentence: str) -> go.Figure:
    return figure(
        data,
        x_title="",
        y_title=y_title,
        height=420,
        sentence=sentence,
        xaxis=axis.layout,
        yaxis=y_axis,
        shapes=axis.shapes,
        showlegend=len(data) > 1,
        margin={"l": 56, "r": 12, "t": 24, "b": 48},
    )


class _TrainingFigure(NamedTuple):
    """A choice of what stands on the y axis: what it is called, its range over all models, how one model is drawn."""

    name: str
    y_range: list[float]
    plot: Callable[[TrainedModel, list[float]], go.Figure]


def _choices(found: Sequence[TrainedModel]) -> list[_TrainingFigure]:
    """What was measured of any model; all models share an axis."""
    lines = [line.shares for one in found for line in writer_lines(one)]
    points = [point for one in found for point in one.points]
    medians = np.array([point.median for point in points]).ravel()
    counts = np.array([point.significant for point in points])
    shares = robust_range(np.concatenate(lines) if lines else np.array([]), np.array([]), keep=_KEPT, limit=LIMIT)
    choices = [_TrainingFigure("most erased writers", shares, plot_writers)]
    if np.isfinite(medians).any():
        median_range = robust_range(medians, np.array([]), keep=(0.0, 0.1), limit=LIMIT)
        choices.append(_TrainingFigure("all heads: median share erased", median_range, plot_median))
    if np.isfinite(counts).any():
        high = 1.06 * max(1.0, float(np.nanmax(counts)))
        choices.append(_TrainingFigure("significant erasers", [-0.04 * high, high], plot_significant))
    return choices


def _place(view: ComparisonView) -> tuple[str, int]:
    """Before size where most models are checkpoints, behind it where some are, and late where nothing was measured."""
    if 2 * sum(is_checkpoint(model.about) for model in view.models) > len(view.models):
        return "", 20
    return "", 40 if trained(view.models) else 120


@card(COMPARISON, "training", _place)
def training_card(view: ComparisonView) -> Card:
    """A model alone says in a sentence what it shows; two stand side by side, and of more two are chosen."""
    models = view.models
    found = trained(models)
    names = [one.name for one in found]
    choices = _choices(found)
    figures = {
        f"{choice}.{at}" if len(found) > 1 else str(choice): shown.plot(one, shown.y_range)
        for choice, shown in enumerate(choices)
        for at, one in enumerate(found)
    }
    two = [Control("Model", names, chosen=at) for at in (0, 1)]
    return Card(
        "How erasure arises in training",
        f"{', '.join(names[:1]) if len(names) == 1 else 'Each model'} at points of its training, from the checkpoints "
        "measured here. Erased is the share of a writer's output that later heads take out because they read it, along all "
        "paths through attention, with means removed where that was measured at every point. Drawn are the "
        f"{_LINES} writers most erased at the last point; the median is over all heads that later heads could erase, with its "
        "95\u00a0% interval over prompts; significant erasers are pairs of a writer and a later head that pass the test for "
        "chance. Each is one training run: another seed may differ."
        f"{_untrained(found)} Shares beyond ±{LIMIT:g} are outside the axis."
        f"{_without_significance(choices)}{_left_out(models, found)}",
        figures,
        [Control("Shown", [shown.name for shown in choices])] if figures else [],
        panels=[] if len(names) < 2 else names if len(names) == 2 else two,
        empty=_why_empty(models),
        tables=("writers", "v_composition"),
    )


def _untrained(found: Sequence[TrainedModel]) -> str:
    if not any(one.points[0].at == 0 for one in found):
        return ""
    return " A dotted line stands where the logarithmic axis begins, left of it are models before any training."


def _without_significance(choices: Sequence[_TrainingFigure]) -> str:
    return (
        ""
        if any(shown.plot is plot_significant for shown in choices)
        else (" Significant erasers were not counted: that takes two blocks of prompts or more.")
    )


def _left_out(models: Sequence[ModelTables], found: Sequence[TrainedModel]) -> str:
    """Checkpoints that are not drawn, and final weights of models that are."""
    drawn = {point.model for one in found for point in one.points}
    series = {one.name for one in found}
    absent = [
        name
        for name, model in zip(display_names(models), models, strict=True)
        if name not in drawn and (is_checkpoint(model.about) or series_of(model.about) in series)
    ]
    return (
        f" Not drawn, since erasure was not measured, their training is not known, or another model stands at the same "
        f"point: {first_of(absent)}."
        if absent
        else ""
    )


def _why_empty(models: Sequence[ModelTables]) -> str:
    if not any(is_checkpoint(model.about) for model in models):
        return "There are no checkpoints of a model's training among these models: NAME@all names those of a model."
    return (
        "That takes two points of one model's training or more at which erasure was measured, and of which "
        "the tokens or steps are known."
    )
