"""Models side by side: how erasure arises and grows, by which layers writers are erased, how long it lasts.

Every figure is two steps, tables to what is shown and that to plotly. Depth is relative, from 0 (the first state) to 1
(the last), so that models of any number of layers share an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.compare_verify import verify_comparison
from dashboards.document import Card, Control, Table
from dashboards.lineup import count_of, display_names, family_of, is_checkpoint
from dashboards.maps import READING_HOVER, Columns, Look, Map, Size, causal_map, colour_limit, plot_map
from dashboards.overview import overview
from dashboards.reading_cards import BETA_TITLE, OUTPUTS, x_title
from dashboards.sizes import size_card
from dashboards.strips import ERASED, MAX_POINTS, OPPOSED, Measure, plot_strips, strip_points
from dashboards.style import (
    BLUE,
    GREEN,
    GREY,
    RATIO_TITLE,
    VERMILLION,
    figure,
    look_of,
    robust_range,
    shade,
    single,
    text,
)
from dashboards.tables import Floats, ModelTables, grid_of, numeric, reading_of, top_writers, writers_table
from dashboards.training import training_card
from dashboards.wording import amount
from dashboards.writers_table import most_erased

KEPT_SHARE = 0.5
_MAP_SIZE = Size(max_writers=60, top_rows=10)
_COLUMNS: tuple[tuple[Columns, str], ...] = (("layers", "whole layers"), ("heads", "heads"))


class DepthLine(NamedTuple):
    """Median presence of one writer through relative depth.

    ``role``: ``most erased``, or ``most opposed`` where reading was not measured, ``pos_embed`` or ``embed``.
    """

    writer: str
    role: str
    depth: Floats
    median: Floats


class Removed(NamedTuple):
    """The share of a model's writers of which less than half of what they wrote remains; NaN without such writers."""

    model: str
    n_layers: int | None
    n_writers: int
    share: float


def named_writers(models: Sequence[ModelTables]) -> list[tuple[str, pd.DataFrame]]:
    """Each model's name and its ``writers`` table: the strips of a figure of writers."""
    return [(name, writers_table(model)) for name, model in zip(display_names(models), models, strict=True)]


def depth_lines(model: ModelTables) -> list[DepthLine]:
    """Presence of the top writer, ``pos_embed`` and ``embed`` through a model's relative depth."""
    residual = grid_of(model.tables.get("residual_projection"), "state")
    depth = np.linspace(0, 1, len(residual.columns)) if len(residual.columns) > 1 else np.zeros(len(residual.columns))
    top = dict.fromkeys(top_writers(model, 1), most_erased(writers_table(model)))
    # the top writer first, also where it is an embedding
    roles = top | {writer: top.get(writer, writer) for writer in ("pos_embed", "embed")}
    lines = [DepthLine(writer, role, depth, residual.row(writer, "median")) for writer, role in roles.items()]
    return [line for line in lines if np.isfinite(line.median).any()]


def plot_depth(lines: Sequence[DepthLine], y_range: list[float]) -> go.Figure:
    """One model's panel."""
    looks = {"pos_embed": (BLUE, "dash", "square"), "embed": (GREEN, "dot", "triangle-up")}
    data = []
    for line in lines:
        colour, dash, symbol = looks.get(line.role, (VERMILLION, "solid", "circle"))
        name = line.writer if line.writer == line.role else f"{line.writer} ({line.role})"
        data.append(
            go.Scatter(
                x=single(line.depth),
                y=single(line.median),
                name=text(name),
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 5},
                hovertemplate="depth %{x:.2f}: %{y:.3f}",
            )
        )
    return figure(
        data,
        x_title="relative depth",
        y_title="projection ratio",
        height=320,
        xaxis={"range": [-0.03, 1.03]},
        yaxis={"range": y_range},
        showlegend=True,
        margin={"l": 44, "r": 8, "t": 20, "b": 40},
    )


def removed(models: Sequence[ModelTables]) -> list[Removed]:
    """Per model, how many of its writers lose more than half of what they wrote.

    Writers with nothing positive written (others outweigh them along it) have no half to lose and are left out.
    """
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        table = writers_table(model)
        written, remaining = numeric(table, "written"), numeric(table, "remaining")
        counted = np.isfinite(written) & np.isfinite(remaining) & (written > 0)
        share = float((remaining[counted] < KEPT_SHARE * written[counted]).mean()) if counted.any() else float("nan")
        layers = count_of(model.about, "n_layers")
        found.append(Removed(name, layers, int(counted.sum()), share))
    return found


def plot_removed(shown: Sequence[Removed]) -> go.Figure:
    """Share of writers that are mostly gone at the end, against depth; one symbol and colour per family of models."""
    families: dict[str, list[Removed]] = {}
    for one in shown:
        families.setdefault(family_of(one.model), []).append(one)
    data = [
        go.Scatter(
            x=[one.n_layers for one in members],
            y=[one.share for one in members],
            name=text(family),
            hovertext=[f"<b>{text(one.model)}</b><br>{one.share:.1%} of {one.n_writers} writers" for one in members],
            mode="markers",
            marker={
                **dict(zip(("color", "symbol"), look_of(index), strict=True)),
                **{"size": 12, "line": {"width": 1, "color": shade(GREY, 0.8)}},
            },
            hovertemplate="%{hovertext}<extra></extra>",
        )
        for index, (family, members) in enumerate(families.items())
    ]
    layers = sorted({one.n_layers for one in shown if one.n_layers is not None})
    wide = bool(layers) and layers[-1] > 8 * layers[0] > 0
    return figure(
        data,
        x_title="layers" + (" (logarithmic)" if wide else ""),
        y_title="share of writers",
        height=400,
        xaxis={"type": "log" if wide else "linear", "tickmode": "array", "tickvals": layers},
        yaxis={"range": [-0.03, 1.03], "tickformat": ".0%"},
        showlegend=True,
    )


def comparison_parts(models: Sequence[ModelTables], links: dict[str, str]) -> list[Card | Table]:
    """The comparison's table and figures in reading order; ``training`` comes first where there are checkpoints."""
    training = training_card(models)
    return [
        overview(models, links),
        *([training] if training.figures else []),
        _erased_card(models),
        size_card(models),
        _causal_card(models),
        _opposed_card(models),
        _depth_card(models),
        _removed_card(models),
        *([] if training.figures else [training]),
        *verify_comparison(list(zip(display_names(models), models, strict=True))),
    ]


def _erased_card(models: Sequence[ModelTables]) -> Card:
    return _strip_card(
        models,
        ERASED,
        "How much of the writers is erased by reading",
        "Each point is a writer: the share of its output that all later heads together remove because they read it, "
        "pooled over all tokens (−β of their V-composed part: 1 is all of it; below 0 they add to it).",
        "Without a writer for which this was measured",
        "This was not measured in any model, or none has a writer with a later attention layer.",
    )


def _opposed_card(models: Sequence[ModelTables]) -> Card:
    return _strip_card(
        models,
        OPPOSED,
        "How much writers are opposed",
        "Each point is a writer: the sum of what later components write against it, whether they read it or not, as a "
        "share of its own output (0: nobody does; −1: as much as it wrote).",
        "Without a measured writer",
        "No model has a measured writer.",
    )


def _strip_card(
    models: Sequence[ModelTables], measure: Measure, title: str, caption: str, unmeasured: str, empty: str
) -> Card:
    strips = named_writers(models)
    names = [name for name, _ in strips]
    both = [strip_points(strips, measure, centred) for centred in (False, True)]
    figures = {}
    if len(both[0]):
        figures = {str(index): plot_strips(points, names, measure) for index, points in enumerate(both)}
    absent = [name for name in names if name not in set(both[0]["group"])]
    said = f" {unmeasured}: {', '.join(absent)}." if absent else ""
    return Card(
        measure.column.partition("_")[0],
        title,
        f"{caption} Grey boxes span the quartiles of the writers drawn. Hollow points lie beyond the axis; their value "
        f"is under the pointer. Of a model with more than {MAX_POINTS} writers the most {measure.name} are drawn, and "
        f"an even sample of the rest. 'Means removed' leaves out what is the same at every token.{said}",
        figures,
        [OUTPUTS] if figures else [],
        min_width=min(1000, 90 * len(names)),
        empty=empty,
    )


def causal_maps(models: Sequence[ModelTables]) -> dict[tuple[Columns, str], list[Map]]:
    """Per choice of columns and model, its causal map as it is and with means removed; models without one left out."""
    maps = {}
    for name, model in zip(display_names(models), models, strict=True):
        grid = reading_of(model)
        for columns, _ in _COLUMNS if grid.measured else ():
            maps[columns, name] = [
                causal_map(grid, top_writers(model), columns, centred=centred, size=_MAP_SIZE)
                for centred in (False, True)
            ]
    return maps


def _causal_card(models: Sequence[ModelTables]) -> Card:
    maps = causal_maps(models)
    names = list(dict.fromkeys(name for _, name in maps))
    large = [name for name in names if maps["heads", name][0].aggregated]
    offered = _COLUMNS if len(large) < len(names) else _COLUMNS[:1]
    figures = {}
    for choice, (columns, _) in enumerate(offered):
        alike = [one for name in names for one in maps[columns, name]]
        look = Look(BETA_TITLE, colour_limit(alike), READING_HOVER)
        for at, name in enumerate(names):
            for centred, one in enumerate(maps[columns, name]):
                plot = plot_map(one, look, x_title=x_title(one.columns), least_height=380)
                figures[f"{centred}.{choice}.{at}" if len(offered) > 1 else f"{centred}.{at}"] = plot
    shown = display_names(models)
    absent = [name for name in shown if name not in names]
    # to begin with the two deepest, which have most to show; of checkpoints the first, against the final weights
    unfinished = [is_checkpoint(model.about) for model, name in zip(models, shown, strict=True) if name in set(names)]
    deepest = sorted(range(len(names)), key=lambda at: (-len(maps["layers", names[at]][0].columns), unfinished[at]))[:2]
    two = [Control("Model", names, chosen=at) for at in sorted(deepest)]
    controls = [OUTPUTS, Control("Erasers", [title for _, title in offered])]
    return Card(
        "causal",
        "The causal maps of erasure",
        "What each later attention layer, or head, (column) writes along each writer (row) because it read it: β of "
        "its V-composed part, a share of the writer's output. Red removes, blue adds; all maps share their colours. "
        "Blank: it is not later than the writer, or the writer was not measured."
        + (f" No later heads, or not measured: {', '.join(absent)}." if absent else "")
        + (
            f" Of models with more than {_MAP_SIZE.max_writers} writers before their last layer rows are the median "
            f"over each layer's writers, then the {_MAP_SIZE.top_rows} most erased writers, and columns always whole "
            f"layers: {', '.join(large)}."
            if large
            else ""
        ),
        figures,
        controls[: len(offered)] if figures else [],
        panels=names if len(names) < 3 else two,
        empty="This was not measured in any model, or none has a writer with a later attention layer.",
    )


def _depth_card(models: Sequence[ModelTables]) -> Card:
    names = display_names(models)
    panels = {name: lines for name, model in zip(names, models, strict=True) if (lines := depth_lines(model))}
    values = [line.median for lines in panels.values() for line in lines]
    y_range = robust_range(np.concatenate(values), np.array([]), limit=4.0) if values else [0.0, 1.0]
    missing = [name for name in names if name not in panels]
    said = f" Nothing was measured for {', '.join(missing)}." if missing else ""
    return Card(
        "depth",
        "How long it lasts",
        f"Median {RATIO_TITLE}, through each model's depth: 0 is the first state, 1 the last. Each model's most "
        "erased writer (the most opposed one where erasing by reading was not measured) beside its embeddings; all "
        f"panels share one axis, which ends at ±4.{said}",
        {str(index): plot_depth(lines, y_range) for index, lines in enumerate(panels.values())},
        panels=list(panels),
        empty="No model has a residual_projection with measured writers.",
    )


def _removed_card(models: Sequence[ModelTables]) -> Card:
    final = [one for one, model in zip(removed(models), models, strict=True) if not is_checkpoint(model.about)]
    shown = [one for one in final if np.isfinite(one.share) and one.n_layers is not None]
    checkpoints = "" if len(final) == len(models) else " Checkpoints are left out: they are as deep as their model."
    counts = "; ".join(f"{one.model} {amount(one.n_writers)}" for one in shown)
    return Card(
        "removed",
        "How many writers are mostly gone at the end",
        "Share of a model's writers of which less than half of what was written remains in the last state. Counted are "
        f"writers with a positive share written: {counts}.{checkpoints}",
        {"0": plot_removed(shown)} if shown else {},
        empty="No model has writers with written and remaining measured, checkpoints aside.",
    )
