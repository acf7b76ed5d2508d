"""Erasure against size: a point per model for its most erased writer, and one for the mean over its writers.

Models of a family, alike but for depth, width and training, share a colour and a symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.training import LIMIT, ErasedShares, erased_of
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model_names import display_names, family_of, is_checkpoint, series_of
from erasure_sweep.dashboards.plots.size_axis import axis_for
from erasure_sweep.dashboards.plots.theme import DASHES, GREY, PALE, figure, look_of, robust_range, shade, text
from erasure_sweep.dashboards.wording import amount, first_of, number
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_KEPT = (0.0, 0.2)


class SizedModel(NamedTuple):
    """A model's sizes, None where they are not known, and what is erased in it."""

    model: str
    family: str
    series: str
    checkpoint: bool
    layers: int | None
    width: int | None
    parameters: int | None
    tokens: int | None
    erased: ErasedShares


class SizeAxis(NamedTuple):
    """What the x axis can be: its title, a model's place on it, what models on one line have in common, and in words."""

    title: str
    place: Callable[[SizedModel], int | None]
    held: Callable[[SizedModel], object]
    words: Callable[[SizedModel], str]


LAYERS = SizeAxis("layers", lambda one: one.layers, lambda one: one.width, lambda one: f"width {amount(one.width)}")
WIDTH = SizeAxis("width", lambda one: one.width, lambda one: one.layers, lambda one: f"{amount(one.layers)} layers")
PARAMETERS = SizeAxis("parameters", lambda one: one.parameters, lambda one: one.width, LAYERS.words)
TOKENS = SizeAxis("training tokens", lambda one: one.tokens, lambda one: one.series, lambda one: one.series)
CHOICES = (LAYERS, WIDTH, PARAMETERS, TOKENS)
OF_ALL_WRITERS, HEADS = "all writers, with embeddings and MLPs", "attention heads"
_NOUNS = {OF_ALL_WRITERS: "writer", HEADS: "head"}


def of_heads(measured: Sequence[SizedModel]) -> list[SizedModel]:
    """The same with heads alone: models of which a head was measured, which takes two layers."""
    found = [one._replace(erased=one.erased.heads) for one in measured]
    return [one for one in found if one.erased.by_writer]


def sized(models: Sequence[ModelTables]) -> list[SizedModel]:
    """Models in which erasing by reading was measured."""
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        erased = erased_of(model)
        if erased.by_writer:
            keys = ("n_layers", "d_model", "n_params", "training_tokens")
            layers, width, parameters, tokens = (getattr(model.about, key) for key in keys)
            of_training = (series_of(model.about), is_checkpoint(model.about))
            found.append(SizedModel(name, family_of(name), *of_training, layers, width, parameters, tokens, erased))
    return found


def against(models: Sequence[SizedModel], choice: SizeAxis) -> list[SizedModel]:
    """Models that have a place on this axis: checkpoints only where it is the tokens of their training."""
    return [one for one in models if choice.place(one) is not None and (choice is TOKENS or not one.checkpoint)]


def strands(models: Sequence[SizedModel], choice: SizeAxis) -> list[list[SizedModel]]:
    """Models of one family as lines along an axis.

    A line has one model at each of its places. Where a family has several at one place, those on a line are alike in
    another size; models that even this does not tell apart stand alone.
    """
    if not models:
        return []
    whole = sorted(models, key=lambda one: choice.place(one) or 0)
    if _is_line(whole, choice) and not _is_mixed(whole, choice):
        return [whole]
    alike: dict[object, list[SizedModel]] = {}
    for one in whole:
        alike.setdefault(choice.held(one), []).append(one)
    return [
        line for group in alike.values() for line in ([group] if _is_line(group, choice) else [[one] for one in group])
    ]


def _is_line(models: Sequence[SizedModel], choice: SizeAxis) -> bool:
    return len({choice.place(one) for one in models}) == len(models)


def _is_mixed(models: Sequence[SizedModel], choice: SizeAxis) -> bool:
    """Whether one line would lead through several of what is held: trainings, or widths where some models share one."""
    held = len({choice.held(one) for one in models})
    return choice is TOKENS or (choice is PARAMETERS and 1 < held < len(models))


def plot_sizes(
    models: Sequence[SizedModel], choice: SizeAxis, families: Sequence[str], kind: str = OF_ALL_WRITERS
) -> go.Figure:
    """Filled: the most erased writer. Hollow: the mean over writers of which anything is erased."""
    shown = against(models, choice)
    axis = axis_for(choice.title, [choice.place(one) or 0 for one in shown], whole=choice in (LAYERS, WIDTH))
    data = []
    for at, family in enumerate(families):
        members = [one for one in shown if one.family == family]
        lines = strands(members, choice)
        names = _names(lines, choice)
        for index, (line, name) in enumerate(zip(lines, names, strict=True)):
            x = axis.places(choice.place(one) or 0 for one in line)
            strand = _Strand(at, index, name, named=name not in names[:index])
            data += [_trace(line, x, strand, hollow) for hollow in (True, False)]
    values = np.array([value for one in shown for value in (one.erased.strongest[1], one.erased.mean)])
    return figure(
        [*data, *(_key(hollow, _NOUNS[kind]) for hollow in (False, True))],
        x_title="",
        y_title="erased by reading<br>(share of the writer's output)",
        height=440,
        sentence=_sentence(shown, _NOUNS[kind]),
        xaxis=axis.layout,
        yaxis={"range": robust_range(values, np.array([]), keep=_KEPT, limit=LIMIT)},
        shapes=axis.shapes,
        showlegend=True,
    )


class _Strand(NamedTuple):
    """A line's family and its place within that, and what the legend calls it, once where several have one name."""

    family: int
    place: int
    name: str
    named: bool


def _names(lines: Sequence[Sequence[SizedModel]], choice: SizeAxis) -> list[str]:
    """Families by name, and where one has several lines what is the same along each."""
    several = sum(len(line) > 1 for line in lines) > 1
    return [f"{line[0].family}, {choice.words(line[0])}" if several else line[0].family for line in lines]


def _trace(line: Sequence[SizedModel], x: Sequence[float], strand: _Strand, hollow: bool) -> go.Scatter:
    colour, symbol = look_of(strand.family)
    # a second line of a family has a pale fill and a dot in what is hollow, so that the legend tells them apart
    first = strand.place % 2 == 0
    open_symbol = f"{symbol}-open" if first else f"{symbol}-open-dot"
    return go.Scatter(
        x=x,
        y=[one.erased.mean if hollow else one.erased.strongest[1] for one in line],
        name=text(strand.name),
        legendgroup=text(strand.name),
        showlegend=strand.named and not hollow,
        # a file of what is drawn tells the two apart
        meta={"series": "mean" if hollow else "most erased"},
        hovertext=[_hover(one, hollow) for one in line],
        mode="lines+markers" if len(line) > 1 else "markers",
        line={"color": shade(colour, 0.6), "dash": DASHES[strand.place % len(DASHES)], "width": 1.5},
        marker={
            "symbol": open_symbol if hollow else symbol,
            "color": colour if first or hollow else shade(colour, PALE),
            "size": 11,
            "line": {"width": 1.5, "color": colour},
        },
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _key(hollow: bool, noun: str) -> go.Scatter:
    """What filled and hollow points are, for the legend."""
    return go.Scatter(
        x=[None],
        y=[None],
        name=f"mean of the erased {noun}s" if hollow else f"most erased {noun}",
        mode="markers",
        marker={"symbol": "circle-open" if hollow else "circle", "color": GREY, "size": 10},
        hoverinfo="skip",
    )


def _hover(one: SizedModel, hollow: bool) -> str:
    writer, share = one.erased.strongest
    n_erased, n_measured = len(one.erased.positive), len(one.erased.by_writer)
    sizes = [
        f"{amount(value)} {name}"
        for value, name in ((one.layers, "layers"), (one.parameters, "parameters"), (one.tokens, "training tokens"))
        if value is not None
    ]
    share_words = (
        f"mean share erased {number(one.erased.mean, 3)}, of {n_erased} of {n_measured} measured writers"
        if hollow
        else f"most erased: {text(writer)}, {number(share, 3)}"
    )
    return f"<b>{text(one.model)}</b><br>{share_words}<br>{', '.join(sizes)}"


def _sentence(shown: Sequence[SizedModel], noun: str) -> str:
    strongest = max(shown, key=lambda one: one.erased.strongest[1])
    writer, share = strongest.erased.strongest
    return (
        f"The most erased {noun} of these models: {writer} of {strongest.model}, against which later heads write "
        f"{number(share)} of its output because they read it."
    )


@card(COMPARISON, "size", order=30)
def size_card(view: ComparisonView) -> Card:
    """A figure per choice of the x axis on which any model has a place."""
    models = view.models
    measured = sized(models)
    offered = [choice for choice in CHOICES if against(measured, choice)]
    # to begin with the first axis on which models stand apart
    apart = [len({choice.place(one) for one in against(measured, choice)}) > 1 for choice in offered]
    chosen = apart.index(True) if any(apart) else 0
    families = list(dict.fromkeys(one.family for one in measured))
    heads = of_heads(measured)
    # embeddings are erased in models of any size: heads alone show best what size does
    of = [(HEADS, heads)] if offered and all(against(heads, choice) for choice in offered) else []
    of += [(OF_ALL_WRITERS, measured)]
    several = len(of) > 1
    controls = [Control("Against", [choice.title for choice in offered], chosen=chosen)]
    controls += [Control("Of", [kind for kind, _ in of])] if several else []
    return Card(
        "Erasure against size",
        "Filled: how much later heads write against a model's most erased head, or writer of any kind, because they read "
        "it, as a share of its output; 1 is all of it, above 1 more than it wrote. Hollow: the mean of that share over the "
        "heads, or writers, of which anything is erased. Heads are erased by later layers alone, so models of one "
        "layer have no point among heads. A colour and symbol is a family, models alike in name but for depth, width and "
        "size; another fill is another width or depth of it. Lines join models that differ in what is on the axis and "
        "otherwise as little as may be. Checkpoints stand only against training tokens. Shares beyond "
        f"±{LIMIT:g} are outside the axis.{_unknown(models, measured)}",
        {
            f"{at}.{index}" if several else str(at): plot_sizes(members, choice, families, kind)
            for at, choice in enumerate(offered)
            for index, (kind, members) in enumerate(of)
        },
        controls if offered else [],
        tables=("writers",),
        empty="Erasing by reading was measured in no model of known size.",
    )


def _unknown(models: Sequence[ModelTables], measured: Sequence[SizedModel]) -> str:
    """Models that have no place in a figure, in words."""
    known = {one.model for one in measured}
    absent = [name for name in display_names(models) if name not in known]
    sentences = [f" Erasing by reading was not measured: {first_of(absent)}."] if absent else []
    for choice in CHOICES:
        without = [one.model for one in measured if choice.place(one) is None and not one.checkpoint]
        sentences += [f" Not known, so not drawn against {choice.title}: {first_of(without)}."] if without else []
    return "".join(sentences)
