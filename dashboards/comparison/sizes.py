"""Erasure against size: every head of every model as a point, the median over heads, and the largest of equally many.

Models of a family, alike but for depth, width, training and seed, share a colour and a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.sized_models import (
    CHOICES,
    LAYERS,
    PARAMETERS,
    TOKENS,
    WIDTH,
    Runs,
    SizeAxis,
    SizedModel,
    against,
    has_centred,
    over_heads,
    pooled,
    sized,
    training_runs,
)
from erasure_sweep.dashboards.comparison.training import LIMIT
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card, Control
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.size_axis import Axis, axis_for
from erasure_sweep.dashboards.plots.theme import (
    DASHES,
    GREY,
    PALE,
    error_bars,
    figure,
    look_of,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.plots.writer_strips import drawn_of, most_points, spread
from erasure_sweep.dashboards.wording import amount, first_of, interval, number
from erasure_sweep.workers.tables.facts.heads import largest_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats

_KEPT = (0.0, 0.2)
_APART, _SPREAD = 0.03, 0.15
"""How far lines stand apart at one place, and all of them together at most, as shares of the axis."""


def strands(models: Sequence[SizedModel], choice: SizeAxis) -> list[list[Runs]]:
    """Models of one family as lines along an axis, training runs of one model as one point.

    A line has one model at each of its places. Where a family has several at one place, those on a line are alike in
    another size; models that even this does not tell apart stand alone.
    """
    if not models:
        return []
    whole = sorted(training_runs(models), key=lambda runs: choice.place(runs[0]) or 0)
    if _is_line(whole, choice) and not _is_mixed(whole, choice):
        return [whole]
    alike: dict[object, list[Runs]] = {}
    for runs in whole:
        alike.setdefault(choice.held(runs[0]), []).append(runs)
    return [
        line
        for group in alike.values()
        for line in ([group] if _is_line(group, choice) else [[runs] for runs in group])
    ]


def _is_line(line: Sequence[Runs], choice: SizeAxis) -> bool:
    return len({choice.place(runs[0]) for runs in line}) == len(line)


def _is_mixed(line: Sequence[Runs], choice: SizeAxis) -> bool:
    """Whether one line would lead through several of what is held: trainings, or widths where some models share one."""
    held = len({choice.held(runs[0]) for runs in line})
    return choice is TOKENS or (choice is PARAMETERS and 1 < held < len(line))


class Strand(NamedTuple):
    """A line of a family: its look, and what the legend calls it, once where several have one name."""

    line: list[Runs]
    family: int
    place: int
    name: str
    named: bool
    n_heads: int
    """Of as many heads the largest is drawn: what the model with the fewest has."""
    shift: float = 0.0
    """How far it stands beside its places, as a share of the axis, since several lines can have one."""
    width: float = _APART
    """How much of the axis is its own at a place."""


def strands_of(models: Sequence[SizedModel], choice: SizeAxis, families: Sequence[str]) -> list[Strand]:
    found = []
    for at, family in enumerate(families):
        lines = strands([one for one in models if one.family == family], choice)
        several = sum(len(line) > 1 for line in lines) > 1
        names = [f"{family}, {choice.words(line[0][0])}" if several else family for line in lines]
        for index, (line, name) in enumerate(zip(lines, names, strict=True)):
            fewest = min(len(one.plain.labels) for runs in line for one in runs)
            found.append(Strand(line, at, index, name, name not in names[:index], fewest))
    width = min(_APART, _SPREAD / max(len(found), 1))
    middle = (len(found) - 1) / 2
    return [strand._replace(shift=(at - middle) * width, width=width) for at, strand in enumerate(found)]


def plot_sizes(
    models: Sequence[SizedModel], choice: SizeAxis, families: Sequence[str], centred: bool = False
) -> go.Figure:
    """Small: heads. Filled: the median over them. Hollow: the largest of as many heads as all models of a line have."""
    shown = against(models, choice)
    most = most_points(len(shown))
    found = strands_of(shown, choice, families)
    axis = axis_for(choice.title, [choice.place(one) or 0 for one in shown], whole=choice in (LAYERS, WIDTH))
    axis = axis.widened(max((abs(strand.shift) + strand.width / 2 for strand in found), default=0.0))
    data = [_heads(strand, axis, choice, centred, most) for strand in found]
    for strand in found:
        data += [_quartiles(strand, axis, choice, centred), _largest(strand, axis, choice, centred)]
        data += [_medians(strand, axis, choice, centred)]
    quantiles = [over_heads(runs, q, centred) for strand in found for runs in strand.line for q in (0.25, 0.5, 0.75)]
    shares = np.concatenate([one.heads(centred).shares for one in shown])
    return figure(
        [*data, *_key()],
        x_title="",
        y_title="erased<br>(share of the head's output)",
        height=480,
        sentence=_sentence(shown, centred),
        xaxis=axis.layout,
        yaxis={"range": robust_range(np.array(quantiles), shares, keep=_KEPT, limit=LIMIT)},
        shapes=axis.shapes,
        showlegend=True,
    )


def _places(strand: Strand, axis: Axis, choice: SizeAxis) -> list[float]:
    places = axis.places(choice.place(runs[0]) or 0 for runs in strand.line)
    return [float(_beside(axis, place, np.array(strand.shift))) for place in places]


def _beside(axis: Axis, place: float, shares: Floats) -> Floats:
    """Where things stand so far beside a place, as shares of the axis."""
    low, high = axis.layout["range"]
    far = shares * (high - low)
    return np.asarray(place * 10**far if axis.layout.get("type") == "log" else place + far)


def _heads(strand: Strand, axis: Axis, choice: SizeAxis, centred: bool, most: int) -> go.Scatter:
    """Every head; of a model with very many the most erased and an even sample of the rest."""
    colour, symbol = look_of(strand.family)
    x, y, names = [], [], []
    for place, runs in zip(_places(strand, axis, choice), strand.line, strict=True):
        for one in runs:
            heads = one.heads(centred)
            order = np.argsort(-heads.shares, kind="stable")
            order = order[drawn_of(len(order), most)]
            x.append(_beside(axis, place, 0.8 * strand.width * spread(len(order))))
            y.append(heads.shares[order])
            names += [f"{heads.labels[at]} of {text(one.model)}" for at in order]
    return go.Scatter(
        x=single(np.concatenate(x)),
        y=single(np.concatenate(y)),
        name=text(strand.name),
        legendgroup=text(strand.name),
        showlegend=False,
        meta={"series": "head"},
        hovertext=names,
        mode="markers",
        marker={"symbol": symbol, "color": shade(colour, 0.35), "size": 4},
        hovertemplate="<b>%{hovertext}</b><br>erased %{y:.3f}<extra></extra>",
    )


def _quartiles(strand: Strand, axis: Axis, choice: SizeAxis, centred: bool) -> go.Scatter:
    """A line from the first to the third quartile of the heads, behind the median."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, runs in zip(_places(strand, axis, choice), strand.line, strict=True):
        x += [place, place, None]
        y += [*(over_heads(runs, q, centred).value for q in (0.25, 0.75)), None]
    return go.Scatter(
        x=x,
        y=y,
        name=text(strand.name),
        legendgroup=text(strand.name),
        showlegend=False,
        meta={"series": "quartiles"},
        mode="lines",
        line={"color": shade(look_of(strand.family)[0], 0.4), "width": 6},
        hoverinfo="skip",
    )


def _medians(strand: Strand, axis: Axis, choice: SizeAxis, centred: bool) -> go.Scatter:
    colour, symbol = look_of(strand.family)
    medians = [over_heads(runs, 0.5, centred) for runs in strand.line]
    # a second line of a family has a pale fill, so that the legend tells them apart
    first = strand.place % 2 == 0
    return go.Scatter(
        x=_places(strand, axis, choice),
        y=[median.value for median in medians],
        error_y=error_bars(medians),
        name=text(strand.name),
        legendgroup=text(strand.name),
        showlegend=strand.named,
        # a file of what is drawn tells the series apart
        meta={"series": "median over heads"},
        hovertext=[_hover(runs, centred) for runs in strand.line],
        mode="lines+markers" if len(strand.line) > 1 else "markers",
        line={"color": shade(colour, 0.6), "dash": DASHES[strand.place % len(DASHES)], "width": 1.5},
        marker={
            "symbol": symbol,
            "color": colour if first else shade(colour, PALE),
            "size": 11,
            "line": {"width": 1.5, "color": colour},
        },
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _largest(strand: Strand, axis: Axis, choice: SizeAxis, centred: bool) -> go.Scatter:
    """What the largest of equally many heads would be, by chance of which they are."""
    colour, symbol = look_of(strand.family)
    found = [largest_of(pooled(runs, centred), strand.n_heads) for runs in strand.line]
    return go.Scatter(
        x=_places(strand, axis, choice),
        y=[one.value for one in found],
        error_y=error_bars(found),
        name=text(strand.name),
        legendgroup=text(strand.name),
        showlegend=False,
        meta={"series": "largest of equally many heads"},
        hovertext=[
            f"<b>{text(runs[0].seedless)}</b><br>largest of {amount(strand.n_heads)} of its heads: {number(one.value, 3)} "
            f"{interval(one.low, one.high, 3)}"
            for runs, one in zip(strand.line, found, strict=True)
        ],
        mode="lines+markers" if len(strand.line) > 1 else "markers",
        line={"color": shade(colour, 0.4), "dash": "dot", "width": 1},
        marker={"symbol": f"{symbol}-open", "color": colour, "size": 9},
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _key() -> list[go.Scatter]:
    """What filled and hollow points are, for the legend."""
    looks = (
        ("median over heads", "circle", 10),
        ("largest of equally many heads", "circle-open", 9),
        ("a head", "circle", 4),
    )
    return [
        go.Scatter(
            x=[None],
            y=[None],
            name=name,
            mode="markers",
            marker={"symbol": symbol, "color": GREY, "size": size},
            hoverinfo="skip",
        )
        for name, symbol, size in looks
    ]


def _hover(runs: Runs, centred: bool) -> str:
    one = runs[0]
    sizes = [
        f"{amount(value)} {name}"
        for value, name in ((one.layers, "layers"), (one.parameters, "parameters"), (one.tokens, "training tokens"))
        if value is not None
    ]
    median = over_heads(runs, 0.5, centred)
    head, share = max((one.heads(centred).largest for one in runs), key=lambda found: found[1])
    several = f", {amount(len(runs))} training runs" if len(runs) > 1 else ""
    return (
        f"<b>{text(one.seedless)}</b>{several}<br>median over {amount(len(one.heads(centred).labels))} heads "
        f"{number(median.value, 3)} {interval(median.low, median.high, 3)}<br>largest: {text(head)}, {number(share, 3)}"
        f"<br>{', '.join(sizes)}"
    )


def _sentence(shown: Sequence[SizedModel], centred: bool) -> str:
    medians = [over_heads([one], 0.5, centred).value for one in shown]
    low, high = (shown[int(at)] for at in (np.argmin(medians), np.argmax(medians)))
    if low is high:
        return f"Erased of {low.model}, the median over heads: {number(medians[0])}."
    ends = (f"{number(medians[shown.index(one)])} in {one.model}" for one in (low, high))
    return f"Erased, the median over heads: from {' to '.join(ends)}."


@card(COMPARISON, "size", order=30)
def size_card(view: ComparisonView) -> Card:
    """A figure per choice of the x axis on which any model has a place, and of the outputs."""
    models = view.models
    measured = sized(models)
    offered = [choice for choice in CHOICES if against(measured, choice)]
    # to begin with the first axis on which models stand apart
    apart = [len({choice.place(one) for one in against(measured, choice)}) > 1 for choice in offered]
    chosen = apart.index(True) if any(apart) else 0
    families = list(dict.fromkeys(one.family for one in measured))
    both = has_centred(measured)
    controls = [Control("Against", [choice.title for choice in offered], chosen=chosen)]
    controls += [OUTPUTS] if both else []
    return Card(
        "Erasure against size",
        "Small points: every head that later heads could erase, and the share of its output that they take out. Filled: the "
        "median over a model's heads, with its 95\u00a0% interval over prompts; the heads are all that the model has. The bar "
        "behind it spans their quartiles. Of models that differ in their seed alone (names that end in -seed1, -seed2, …) it "
        "stands at their mean, and the interval holds all of theirs. Hollow: the largest of equally many heads, as many as the "
        "smallest model on the line has, drawn at random from each, with 95\u00a0% of draws: that of all heads grows with "
        "their number alone. Models of one layer have no such heads. A colour and symbol is a family, models alike in name but "
        "for depth, width, size and seed. Lines join models that differ in what is on the axis and otherwise as little as may "
        f"be. Checkpoints stand only against training tokens. The axis leaves out heads far beyond the quartiles, and shares "
        f"beyond ±{LIMIT:g}: the largest head can be outside it."
        f"{_unknown(models, measured)}",
        {
            f"{at}.{int(centred)}" if both else str(at): plot_sizes(measured, choice, families, centred)
            for at, choice in enumerate(offered)
            for centred in ((False, True) if both else (False,))
        },
        controls if offered else [],
        tables=("writers",),
        empty="Erasure of heads was measured in no model of known size.",
    )


def _unknown(models: Sequence[ModelTables], measured: Sequence[SizedModel]) -> str:
    """Models that have no place in a figure, in words."""
    known = {one.model for one in measured}
    absent = [name for name in display_names(models) if name not in known]
    sentences = [f" No head was measured: {first_of(absent)}."] if absent else []
    for choice in CHOICES:
        without = [one.model for one in measured if choice.place(one) is None and not one.checkpoint]
        sentences += [f" Not known, so not drawn against {choice.title}: {first_of(without)}."] if without else []
    return "".join(sentences)
