"""Erasure layer by layer: where erased writers write, and where it is that later heads erase them.

A model is a line over its layers. Of the writers of a layer, or of the writers that a layer's heads erase, a point is
the strongest one's share or the median. Embeddings write before layer 0 and stand there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.training import LIMIT
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card, Control
from erasure_sweep.dashboards.model_names import display_names, family_of, is_one_training
from erasure_sweep.dashboards.plots.theme import (
    DASHES,
    GREY,
    SYMBOLS,
    VERMILLION,
    figure,
    look_of,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.wording import first_of, listed, number
from erasure_sweep.workers.labels import kind_of, place_of
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, table_of

Side = Literal["writers", "erasers"]
SIDES: tuple[tuple[Side, str], ...] = (("writers", "where erased writers write"), ("erasers", "where it is erased"))
STATISTICS = ("the strongest writer", "the median writer")
EMBEDDINGS = -1
"""The place of embeddings: before layer 0."""
MOST_LINES = 24
_KEPT = (0.0, 0.2)
_GAP = 0.12
_FEW_LAYERS = 12
_FEW_LINES = 4
_MOST_PLACES = 4


class LayerLine(NamedTuple):
    """One model layer by layer.

    Attributes:
        depth: how many layers the model has.
        layers: where something was measured, ascending; ``EMBEDDINGS`` before all.
        strongest: the greatest share erased of any writer, one for each of ``layers``; ``names`` says whose.
        median: over the measured writers; ``counts`` says of how many.
    """

    model: str
    family: str
    depth: int
    width: int | None
    layers: list[int]
    strongest: Floats
    names: list[str]
    median: Floats
    counts: list[int]


def shares_by_layer(model: ModelTables, side: Side, centred: bool = False) -> pd.DataFrame:
    """Columns ``layer``, ``writer`` and ``share``, a row for each that was measured.

    On the side of writers a share is what all later heads erase, and the layer is the writer's; on that of erasers it
    is what one later attention layer erases, and the layer is that one.
    """
    suffix = "_centred" if centred else ""
    if side == "writers":
        table = table_of(model.tables, "writers")
        codes, labels = pd.factorize(table["writer"])
        places = [place_of(str(label)) for label in labels]
        share = numeric(table, f"erased{suffix}")
    else:
        table = table_of(model.tables, "erasure_shares")
        codes, labels = pd.factorize(table["eraser"] if "eraser" in table else pd.Series("", index=table.index))
        # single heads are left out: a layer's sum holds them
        places = [place_of(str(label)) if kind_of(str(label)) == "attention" else None for label in labels]
        share = numeric(table, f"share{suffix}")
    # one more, at the end, for what is null
    layer = np.array([np.nan if place is None else place.layer for place in (*places, None)], dtype=np.float64)[codes]
    kept = np.isfinite(layer) & np.isfinite(share)
    writers = table["writer"].to_numpy()[kept].astype(str).astype(object)
    return pd.DataFrame({"layer": layer[kept].astype(int), "writer": writers, "share": share[kept]})


def layer_lines(models: Sequence[ModelTables], side: Side, centred: bool = False) -> list[LayerLine]:
    """Models of which this was measured."""
    lines = []
    for name, model in zip(display_names(models), models, strict=True):
        shares = shares_by_layer(model, side, centred)
        layers = sorted({int(layer) for layer in shares["layer"]})
        if layers:
            depth = model.about.n_layers or _deepest(model) + 1
            about = (name, family_of(name), depth, model.about.d_model)
            parts = [shares[shares["layer"] == layer] for layer in layers]
            lines.append(LayerLine(*about, layers, *_summed(parts)))
    return lines


def _deepest(model: ModelTables) -> int:
    """The last layer that has a writer, measured or not."""
    found = [
        place_of(str(writer))
        for name in ("writers", "erasure_shares")
        for writer in table_of(model.tables, name)["writer"]
    ]
    return max(place.layer for place in found if place)


def _summed(parts: Sequence[pd.DataFrame]) -> tuple[Floats, list[str], Floats, list[int]]:
    """Of each layer the strongest share and whose it is, the median and of how many writers."""
    shares = [part["share"].to_numpy(dtype=np.float64) for part in parts]
    strongest = [int(np.argmax(values)) for values in shares]
    return (
        np.array([values[at] for values, at in zip(shares, strongest, strict=True)]),
        [str(part["writer"].iloc[at]) for part, at in zip(parts, strongest, strict=True)],
        np.array([np.median(values) for values in shares]),
        [len(values) for values in shares],
    )


def places(line: LayerLine, relative: bool) -> Floats:
    """Where a line's points stand: layers as they are numbered, or from 0, the first, to 1, the last."""
    layers = np.array(line.layers, dtype=np.float64)
    if not relative:
        return layers
    return np.where(layers == EMBEDDINGS, -_GAP, layers / max(line.depth - 1, 1))


def plot_layers(
    lines: Sequence[LayerLine], looks: dict[str, dict[str, Any]], side: Side, median: bool, relative: bool
) -> go.Figure:
    """A line per model; embeddings apart from it, left of a dotted line."""
    values = np.concatenate([np.zeros(1), *(line.median if median else line.strongest for line in lines)])
    embedded = any(EMBEDDINGS in line.layers for line in lines)
    at = -_GAP / 2 if relative else -0.5
    dotted = {"color": shade(GREY, 0.8), "width": 1, "dash": "dot"}
    before_layer_0 = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": dotted}
    whose = "of the writers of a layer" if side == "writers" else "by a layer's heads"
    return figure(
        [_trace(line, looks[line.model], side, median, relative) for line in lines],
        x_title="",
        y_title=f"erased {whose}<br>(share of the writer's output)",
        height=440,
        sentence=_sentence(lines, side, median),
        xaxis=_axis(lines, side, relative, embedded),
        yaxis={"range": robust_range(values, np.array([]), keep=_KEPT, limit=LIMIT)},
        shapes=[{**before_layer_0, "x0": at, "x1": at}] if embedded else [],
        showlegend=True,
    )


def _trace(line: LayerLine, look: dict[str, Any], side: Side, median: bool, relative: bool) -> go.Scatter:
    at, values = places(line, relative), line.median if median else line.strongest
    hover_texts = [_hover(line, index, side, median) for index in range(len(at))]
    if line.layers[0] == EMBEDDINGS:
        # a gap, so that no line leads from embeddings to layer 0
        at, values = np.insert(at, 1, np.nan), np.insert(values, 1, np.nan)
        hover_texts.insert(1, "")
    return go.Scatter(
        x=single(at),
        y=single(values),
        name=text(line.model),
        hovertext=hover_texts,
        mode="lines+markers",
        connectgaps=False,
        hovertemplate=f"<b>{text(line.model)}</b>, %{{hovertext}}<extra></extra>",
        **look,
    )


def _hover(line: LayerLine, at: int, side: Side, median: bool) -> str:
    layer = line.layers[at]
    where = "embeddings" if layer == EMBEDDINGS else f"{'layer' if side == 'writers' else 'heads of layer'} {layer}"
    if median:
        return f"{where}<br>median {number(line.median[at], 3)} of {line.counts[at]} writers"
    return f"{where}<br>{text(line.names[at])} {number(line.strongest[at], 3)}"


def _axis(lines: Sequence[LayerLine], side: Side, relative: bool, embedded: bool) -> dict[str, Any]:
    title = f"layer of the {'writer' if side == 'writers' else 'erasing heads'}"
    before = [(-_GAP if relative else EMBEDDINGS, "embeddings")] if embedded else []
    if relative:
        ticks = [*before, *((at, f"{at:g}") for at in (0.25, 0.5, 0.75)), (0.0, "0<br>first"), (1.0, "1<br>last")]
        ends, title = (-0.04, 1.04), f"{title}, relative to the model's depth"
    else:
        deepest = max((line.depth for line in lines), default=1) - 1
        step = max(1, -(-deepest // _FEW_LAYERS))
        ticks = [*before, *((layer, str(layer)) for layer in range(0, deepest + 1, step))]
        ends = (-0.3, deepest + 0.3)
    left = min([ends[0], *(at - (0.08 if relative else 0.4) for at, _ in before)])
    return {
        "title": {"text": title},
        "tickmode": "array",
        "tickvals": [at for at, _ in ticks],
        "ticktext": [name for _, name in ticks],
        "range": [left, ends[1]],
        "zeroline": False,
    }


def peaks(lines: Sequence[LayerLine], median: bool) -> dict[int, int]:
    """By layer, ``EMBEDDINGS`` first, in how many models most is erased there.

    Models in which nothing noticeable is erased are counted nowhere.
    """
    found: Counter[int] = Counter()
    for line in lines:
        values = line.median if median else line.strongest
        at = int(np.argmax(values))
        if values[at] >= NOTICEABLE:
            found[line.layers[at]] += 1
    return dict(sorted(found.items()))


def _sentence(lines: Sequence[LayerLine], side: Side, median: bool) -> str:
    if not lines:
        return "This was not measured."
    counted = peaks(lines, median)
    if not counted:
        return "No layer stands out: next to nothing is erased."
    if len(lines) == 1:
        return _alone(lines[0], side, median)
    beginning = {
        ("writers", False): "The most erased writer is in",
        ("writers", True): "The median share erased of writers is greatest in",
        ("erasers", False): "The heads that erase most of a writer are in",
        ("erasers", True): "The median share erased is greatest for the heads of",
    }[side, median]
    common = sorted(counted, key=lambda layer: -counted[layer])[:_MOST_PLACES]
    places_of = [f"{_place(layer)} in {counted[layer]}" for layer in sorted(common)]
    others = sum(counted.values()) - sum(counted[layer] for layer in common)
    places_of += [f"other layers in {others}"] if others else []
    return f"{beginning} {listed(places_of)} of {len(lines)} models."


def _place(layer: int) -> str:
    return "the embeddings" if layer == EMBEDDINGS else f"layer {layer}"


def _alone(line: LayerLine, side: Side, median: bool) -> str:
    values = line.median if median else line.strongest
    at = int(np.argmax(values))
    layer = line.layers[at]
    verb = "is erased of writers of" if side == "writers" else "is erased by heads of"
    return f"Most {verb} {_place(layer)}: {number(values[at])}."


def looks_of(models: Sequence[ModelTables]) -> dict[str, dict[str, Any]]:
    """How each model is drawn: colour is the family, dash the width, symbol the depth; of checkpoints paler is earlier."""
    names = display_names(models)
    if is_one_training(models):
        shades = np.linspace(0.3, 1, len(names))
        return {
            name: _look(shade(VERMILLION, float(alpha)), "solid", SYMBOLS[at % len(SYMBOLS)])
            for at, (name, alpha) in enumerate(zip(names, shades, strict=True))
        }
    families = list(dict.fromkeys(family_of(name) for name in names))
    sizes = [(model.about.d_model or 0, model.about.n_layers or 0) for model in models]
    widths, depths = (sorted(set(values)) for values in (zip(*sizes, strict=True) if sizes else ((), ())))
    return {
        name: _look(
            look_of(families.index(family_of(name)))[0],
            DASHES[widths.index(width) % len(DASHES)],
            SYMBOLS[depths.index(depth) % len(SYMBOLS)],
        )
        for name, (width, depth) in zip(names, sizes, strict=True)
    }


def _look(colour: str, dash: str, symbol: str) -> dict[str, Any]:
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "symbol": symbol, "size": 8},
    }


class _SideLines(NamedTuple):
    """The lines of one side, outputs as they are and with means removed."""

    side: Side
    title: str
    lines: list[list[LayerLine]]


@card(COMPARISON, "layers", order=60)
def layers_card(view: ComparisonView) -> Card:
    """The figures by depth, side, statistic and outputs."""
    models = view.shown
    measured = [
        _SideLines(side, title, [_most(layer_lines(models, side, centred)) for centred in (False, True)])
        for side, title in SIDES
    ]
    measured = [one for one in measured if one.lines[0]]
    shown = {line.model for one in measured for line in one.lines[0]}
    looks = looks_of(models)
    depths = {line.depth for one in measured for line in one.lines[0]}
    # models of one depth stand at the same places either way
    several = len(depths) > 1
    views = [("relative", True)] if several else []
    views += [("absolute layer", False)]
    figures = {
        f"{view}.{at}.{int(median)}.{centred}"[0 if several else 2 :]: plot_layers(
            lines, looks, one.side, median, relative
        )
        for view, (_, relative) in enumerate(views)
        for at, one in enumerate(measured)
        for centred, lines in enumerate(one.lines)
        for median in (False, True)
    }
    controls = [
        *([Control("Depth", [name for name, _ in views])] if several else []),
        Control("Layers", [one.title for one in measured]),
        Control("Share of", STATISTICS),
        OUTPUTS,
    ]
    return Card(
        "Erasure layer by layer",
        f"{_caption(models, shown, several)}{view.note}",
        figures,
        controls if figures else [],
        # a legend of many lines leaves a narrow figure no room
        min_width=640 if len(shown) > _FEW_LINES else 0,
        empty="Erasure was measured in no model with a later attention layer.",
        tables=("writers", "erasure_shares"),
    )


def _most(lines: list[LayerLine]) -> list[LayerLine]:
    """No more lines than can be told apart: those of the models in which most is erased, in the models' order."""
    kept = sorted(range(len(lines)), key=lambda at: -float(np.max(lines[at].strongest)))[:MOST_LINES]
    return [lines[at] for at in sorted(kept)]


def _caption(models: Sequence[ModelTables], shown: set[str], several_depths: bool) -> str:
    absent = [name for name in display_names(models) if name not in shown]
    look = (
        "Paler lines are earlier in training."
        if is_one_training(models)
        else "Colour is the family, dashes the width, symbols the number of layers."
    )
    relative = " Relative depth runs from 0, a model's first layer, to 1, its last." if several_depths else ""
    left_out = f" Not drawn, since it was not measured or {MOST_LINES} others are erased more: {first_of(absent)}."
    return (
        "A line per model. 'Where erased writers write': of each layer's writers, the share of their output that later heads "
        "take out because they, or heads between, read it; embeddings write before layer 0. 'Where it is erased': the part of "
        "that which the heads of one later attention layer take out, of any earlier writer; over layers the parts add up. "
        "Drawn is the strongest writer, whose share is larger the more heads a layer has, or the median writer. 1 is all that "
        f"the writer wrote; below 0 it is added to. {look}{relative} 'Means removed' leaves out what is the same at every "
        f"token. Shares beyond ±{LIMIT:g} are outside the axis.{left_out if absent else ''}"
    )
