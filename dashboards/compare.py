"""Models side by side: how much of their writers is erased, by which layers, how long it lasts, how much is left.

Every figure is two steps, tables to what is shown and that to plotly. Depth is relative, from 0 (the first state) to 1
(the last), so that models of any number of layers share an axis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.compare_verify import verify_comparison
from dashboards.document import Card, Column, Control, Markup, Table, escape
from dashboards.maps import READING_HOVER, Columns, Look, Map, Size, causal_map, colour_limit, plot_map
from dashboards.reading_cards import BETA_TITLE, OUTPUTS, x_title
from dashboards.strips import ERASED, MAX_POINTS, OPPOSED, Measure, plot_strips, strip_points, strongest
from dashboards.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    RATIO_TITLE,
    SYMBOLS,
    VERMILLION,
    figure,
    robust_range,
    shade,
    single,
    text,
)
from dashboards.tables import (
    Floats,
    ModelTables,
    grid_of,
    is_ranked,
    numeric,
    reading_of,
    top_writers,
    writers_table,
)
from dashboards.wording import amount, number, protocol_warnings
from dashboards.writers_table import most_erased

KEPT_SHARE = 0.5
_MAP_SIZE = Size(max_writers=60, top_rows=10)
_NAMED_WRITERS = 3
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


def display_names(models: Sequence[ModelTables]) -> list[str]:
    """Names by which models are told apart: the folder is added where two have the same."""
    names = [str(model.about.get("name") or "unnamed model") for model in models]
    seen = Counter(names)
    return [
        f"{name} ({model.about.get('folder') or index})" if seen[name] > 1 else name
        for index, (name, model) in enumerate(zip(names, models, strict=True), start=1)
    ]


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
        layers = _count(model.about.get("n_layers"))
        found.append(Removed(name, layers, int(counted.sum()), share))
    return found


def plot_removed(shown: Sequence[Removed]) -> go.Figure:
    """Share of writers that are mostly gone at the end, against depth; one symbol and colour per model."""
    data = [
        go.Scatter(
            x=[one.n_layers],
            y=[one.share],
            name=text(one.model),
            mode="markers",
            marker={
                "size": 12,
                "color": CYCLE[index % len(CYCLE)],
                "symbol": SYMBOLS[(index + index // len(CYCLE)) % len(SYMBOLS)],
                "line": {"width": 1, "color": shade(GREY, 0.8)},
            },
            hovertemplate=f"<b>{text(one.model)}</b><br>%{{y:.1%}} of {one.n_writers} writers<extra></extra>",
        )
        for index, one in enumerate(shown)
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


def overview(models: Sequence[ModelTables], links: dict[str, str]) -> Table:
    """The table of models: name (a link where there is a page), shape, tokens, the top writers.

    Top writers are the most erased by reading; where a model lacks that, all have their most opposed too.
    """
    ranked = [is_ranked(table) for _, table in named_writers(models)]
    tops = [(ERASED, "most erased by reading: share (written → remaining)")] if any(ranked) else []
    tops += [] if ranked and all(ranked) else [(OPPOSED, "most opposed: written → remaining")]
    rows = []
    for name, model in zip(display_names(models), models, strict=True):
        about = model.about
        link = links.get(str(about.get("name"))) or links.get(name)
        shown = Markup(f'<a href="{escape(link)}">{escape(name)}</a>') if link else name
        sizes = [_count(about.get(key)) for key in ("n_layers", "d_model", "n_params", "n_tokens")]
        rows.append([shown, *sizes, *(_top_three(model, measure) for measure, _ in tops)])
    erased = "most erased because later heads read them" if any(ranked) else "that later components opposed most"
    headings = ("layers", "width", "parameters", "tokens measured")
    return Table(
        "models",
        "The models",
        f"The three writers {erased}, with the share of their output in the stream where they write and at the end. "
        "A model's name leads to its page.",
        [Column("model"), *(Column(heading, "", True) for heading in headings), *(Column(title) for _, title in tops)],
        rows,
        empty="There are no models to compare.",
    )


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _top_three(model: ModelTables, measure: Measure) -> str | None:
    """The model's strongest writers by one measure, in words; None where it was not measured."""
    points = strip_points([("", writers_table(model))], measure)
    said = []
    for row in strongest(points, measure, _NAMED_WRITERS).itertuples():
        kept = f"{number(row.written)}\u00a0→\u00a0{number(row.remaining)}"
        said.append(
            f"{row.writer}\u00a0{number(row.value)} ({kept})" if measure is ERASED else f"{row.writer}\u00a0{kept}"
        )
    return (", ".join(said) or "none") if len(points) else None


def notices(models: Sequence[ModelTables], sweep: dict[str, Any]) -> str:
    """Warnings as HTML: where protocols differ, what failed, and models of the sweep that are not on the page."""
    warnings = protocol_warnings([model.about for model in models], display_names(models))
    shown = {str(model.about.get("name")) for model in models}
    absent = [str(entry.get("name")) for entry in sweep.get("models") or [] if str(entry.get("name")) not in shown]
    warnings += [f"Not on this page, though in the sweep: {', '.join(absent)}."] if absent else []
    warnings += [] if models else ["There are no models in this sweep."]
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="notice" role="status"><strong>Mind when comparing</strong><ul>{items}</ul></div>\n'


def comparison_parts(models: Sequence[ModelTables], links: dict[str, str]) -> list[Card | Table]:
    """The comparison's table and figures in reading order."""
    return [
        overview(models, links),
        _erased_card(models),
        _causal_card(models),
        _opposed_card(models),
        _depth_card(models),
        _removed_card(models),
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
    absent = [name for name in display_names(models) if name not in names]
    # to begin with the two deepest, which have most to show
    deepest = sorted(range(len(names)), key=lambda at: -len(maps["layers", names[at]][0].columns))[:2]
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
    shown = [one for one in removed(models) if np.isfinite(one.share) and one.n_layers is not None]
    counts = "; ".join(f"{one.model} {amount(one.n_writers)}" for one in shown)
    return Card(
        "removed",
        "How many writers are mostly gone at the end",
        "Share of a model's writers of which less than half of what was written remains in the last state. Counted are "
        f"writers with a positive share written: {counts}.",
        {"0": plot_removed(shown)} if shown else {},
        empty="No model has writers with written and remaining measured.",
    )
