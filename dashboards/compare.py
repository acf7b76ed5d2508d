"""Models side by side: how much their writers are opposed, how long their embeddings last, how much is left.

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

from dashboards.document import Card, Column, Control, Markup, Table, escape
from dashboards.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    KIND_COLOURS,
    KIND_NAMES,
    KIND_SYMBOLS,
    RATIO_TITLE,
    SYMBOLS,
    VERMILLION,
    figure,
    robust_range,
    shade,
    single,
    text,
)
from dashboards.tables import Floats, ModelTables, grid_of, kind_of, numeric, top_writers, writers_table
from dashboards.wording import amount, number, protocol_warnings

MAX_POINTS = 300
KEPT_SHARE = 0.5
_OFFSETS = {"embeddings": -0.25, "head": 0.0, "MLP": 0.25, "other": 0.25}


class DepthLine(NamedTuple):
    """Median presence of one writer through relative depth; ``role``: ``most opposed``, ``pos_embed`` or ``embed``."""

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


def opposed_points(models: Sequence[ModelTables], centred: bool = False, most: int = MAX_POINTS) -> pd.DataFrame:
    """One row per writer to be drawn: model, writer, kind, opposed, written, remaining; unmeasured writers left out.

    Of a model with more than ``most`` writers half are its most opposed, half spread evenly over the rest.
    """
    suffix = "_centred" if centred else ""
    frames = []
    for name, model in zip(display_names(models), models, strict=True):
        table = writers_table(model)
        values = {key: numeric(table, f"{key}{suffix}") for key in ("opposed", "written", "remaining")}
        rows = pd.DataFrame({"model": name, "writer": table["writer"].astype(str), **values})
        rows = rows[np.isfinite(rows["opposed"])].sort_values("opposed", kind="stable", ignore_index=True)
        if len(rows) > most:
            rest = np.linspace(most // 2, len(rows) - 1, most - most // 2).round().astype(int)
            rows = rows.iloc[[*range(most // 2), *rest]]
        frames.append(rows.assign(kind=[kind_of(writer) for writer in rows["writer"]]))
    columns = ["model", "writer", "kind", "opposed", "written", "remaining"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def plot_opposed(points: pd.DataFrame, models: Sequence[str]) -> go.Figure:
    """A strip of writers per model, kinds apart by place, colour and symbol; what lies below the axis sits on it."""
    position = {name: index for index, name in enumerate(models)}
    floor = _strip_floor(points)
    data = [_box(points, models, floor)]
    for kind in KIND_NAMES:
        part = points[points["kind"] == kind]
        if len(part):
            data.append(_strip(part, kind, position, floor))
    return figure(
        data,
        x_title="",
        y_title="opposed<br>(share of the writer's output)",
        height=460,
        xaxis={
            **{"tickmode": "array", "tickvals": list(range(len(models))), "ticktext": [text(name) for name in models]},
            **{"range": [-0.6, len(models) - 0.4], "showgrid": False, "zeroline": False},
        },
        yaxis={"range": [floor * 1.04, 0.04 * abs(floor)]},
        showlegend=True,
    )


def _strip_floor(points: pd.DataFrame) -> float:
    """Lower end of the axis: the model with the widest spread, without its furthest twentieth."""
    tails = [float(np.quantile(part["opposed"], 0.05)) for _, part in points.groupby("model", observed=True)]
    lowest = float(points["opposed"].min()) if len(points) else -1.0
    return min(-0.5, max(lowest, 1.3 * min(tails, default=-1.0)))


def _box(points: pd.DataFrame, models: Sequence[str], floor: float) -> go.Box:
    quartiles = [
        np.quantile(points.loc[points["model"] == name, "opposed"], [0.25, 0.5, 0.75])
        for name in models
        if (points["model"] == name).any()
    ]
    at = [index for index, name in enumerate(models) if (points["model"] == name).any()]
    low, middle, high = (np.maximum([row[i] for row in quartiles], floor) for i in range(3))
    return go.Box(
        x=at,
        q1=single(low),
        median=single(middle),
        q3=single(high),
        lowerfence=single(low),
        upperfence=single(high),
        width=0.8,
        name="quartiles of all",
        line={"color": shade(GREY, 0.8), "width": 1},
        fillcolor=shade(GREY, 0.15),
        hoverinfo="skip",
    )


def _strip(part: pd.DataFrame, kind: str, position: dict[str, int], floor: float) -> go.Scatter:
    # steps of the golden ratio spread neighbours evenly without chance
    jitter = (np.arange(len(part)) * 0.6180339887 % 1 - 0.5) * (0.26 if kind == "head" else 0.12)
    below = part["opposed"].to_numpy() < floor
    symbol = KIND_SYMBOLS[kind]
    return go.Scatter(
        x=single(part["model"].map(position).to_numpy(dtype=float) + _OFFSETS.get(kind, 0.0) + jitter),
        y=single(part["opposed"].clip(lower=floor).to_numpy()),
        text=[text(writer) for writer in part["writer"]],
        customdata=single(part[["opposed", "written", "remaining"]].to_numpy(dtype=float)),
        name=KIND_NAMES[kind],
        mode="markers",
        marker={
            "color": KIND_COLOURS[kind],
            "symbol": [f"{symbol}-open" if out else symbol for out in below],
            **{"size": 7, "opacity": 0.85},
        },
        hovertemplate=(
            "<b>%{text}</b><br>opposed %{customdata[0]:.3f}<br>"
            "written %{customdata[1]:.3f}, remaining %{customdata[2]:.3f}<extra></extra>"
        ),
    )


def depth_lines(model: ModelTables) -> list[DepthLine]:
    """Presence of the most opposed writer, ``pos_embed`` and ``embed`` through a model's relative depth."""
    residual = grid_of(model.tables.get("residual_projection"), "state")
    depth = np.linspace(0, 1, len(residual.columns)) if len(residual.columns) > 1 else np.zeros(len(residual.columns))
    roles = {"pos_embed": "pos_embed", "embed": "embed"} | dict.fromkeys(top_writers(model, 1), "most opposed")
    lines = [DepthLine(writer, role, depth, residual.row(writer, "median")) for writer, role in roles.items()]
    lines = [line for line in lines if np.isfinite(line.median).any()]
    return sorted(lines, key=lambda line: ("most opposed", "pos_embed", "embed").index(line.role))


def plot_depth(lines: Sequence[DepthLine], y_range: list[float]) -> go.Figure:
    """One model's panel."""
    looks = {"most opposed": (VERMILLION, "solid", "circle"), "pos_embed": (BLUE, "dash", "square")}
    data = []
    for line in lines:
        colour, dash, symbol = looks.get(line.role, (GREEN, "dot", "triangle-up"))
        name = line.writer if line.writer == line.role else f"{line.writer} (most opposed)"
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


def overview(models: Sequence[ModelTables], links: dict[str, str]) -> list[list[Any]]:
    """Rows of the table of models: name (a link where there is a page), shape, tokens, the most opposed writers."""
    rows = []
    for name, model in zip(display_names(models), models, strict=True):
        about = model.about
        link = links.get(str(about.get("name"))) or links.get(name)
        shown = Markup(f'<a href="{escape(link)}">{escape(name)}</a>') if link else name
        sizes = [_count(about.get(key)) for key in ("n_layers", "d_model", "n_params", "n_tokens")]
        rows.append([shown, *sizes, _three_most_opposed(model)])
    return rows


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _three_most_opposed(model: ModelTables) -> str | None:
    table = writers_table(model)
    top = top_writers(model, 3)
    written, remaining = numeric(table, "written"), numeric(table, "remaining")
    said = [
        f"{writer}\u00a0{number(written[row])}\u00a0→\u00a0{number(remaining[row])}" for row, writer in enumerate(top)
    ]
    return ", ".join(said) or None


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
    return [_overview_table(models, links), _opposed_card(models), _depth_card(models), _removed_card(models)]


def _overview_table(models: Sequence[ModelTables], links: dict[str, str]) -> Table:
    headings = ("layers", "width", "parameters", "tokens measured")
    opposed = Column("most opposed: written → remaining")
    return Table(
        "models",
        "The models",
        "The three writers that later components opposed most, with the share of their output in the stream where "
        "they write and at the end. A model's name leads to its page.",
        [Column("model"), *(Column(heading, "", True) for heading in headings), opposed],
        overview(models, links),
        empty="There are no models to compare.",
    )


def _opposed_card(models: Sequence[ModelTables]) -> Card:
    names = display_names(models)
    both = [opposed_points(models, centred) for centred in (False, True)]
    figures = {str(index): plot_opposed(points, names) for index, points in enumerate(both)} if len(both[0]) else {}
    unmeasured = [name for name in names if name not in set(both[0]["model"])]
    said = f" Without a measured writer: {', '.join(unmeasured)}." if unmeasured else ""
    return Card(
        "opposed",
        "How much writers are opposed",
        "Each point is a writer: the sum of what later components write against it, as a share of its own output (0: "
        "nobody does; −1: as much as it wrote). Grey boxes span the quartiles of the writers drawn. Hollow points "
        f"lie below the axis; their value is under the pointer. Of a model with more than {MAX_POINTS} writers the "
        "most opposed are drawn, and an even sample of the rest. 'Means removed' leaves out what is the same at "
        f"every token.{said}",
        figures,
        [Control("Outputs", ["as they are", "means removed"])] if figures else [],
        min_width=min(1000, 90 * len(names)),
        empty="No model has a measured writer.",
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
        f"opposed writer beside its embeddings; all panels share one axis, which ends at ±4.{said}",
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
