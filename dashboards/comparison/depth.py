"""Models side by side in what is left of writers: presence through relative depth, and how many are mostly gone at the end.

Depth is relative, from 0 (the first state) to 1 (the last), so that models of any number of layers share an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.writers_table import first_of, most_erased
from erasure_sweep.dashboards.model_names import count_of, display_names, family_of, is_checkpoint
from erasure_sweep.dashboards.model_tables import ModelTables, grid_of
from erasure_sweep.dashboards.plots.theme import (
    BLUE,
    GREEN,
    RATIO_TITLE,
    VERMILLION,
    figure,
    look_of,
    robust_range,
    shade,
    single,
    text,
)
from erasure_sweep.dashboards.wording import amount
from erasure_sweep.workers.tables.facts.erasure import top_writers, writers_by_rank
from erasure_sweep.workers.tables.values import Floats, numeric

KEPT_SHARE = 0.5
PALE = 0.3
"""How strong the fill of a family's other widths is."""
_LEAST_SHARE = 0.1
_MOST_PANELS = 24


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


def depth_lines(model: ModelTables) -> list[DepthLine]:
    """Presence of the top writer, ``pos_embed`` and ``embed`` through a model's relative depth."""
    residual = grid_of(model.tables.get("residual_projection"), "state")
    depth = np.linspace(0, 1, len(residual.columns)) if len(residual.columns) > 1 else np.zeros(len(residual.columns))
    top = dict.fromkeys(top_writers(model.tables, 1), most_erased(writers_by_rank(model.tables)))
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
    """Per model, of how many of its writers more than half of what they wrote is gone at the end.

    Writers with nothing positive written (others outweigh them along it) have no half to lose and are left out.
    """
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        table = writers_by_rank(model.tables)
        written, remaining = numeric(table, "written"), numeric(table, "remaining")
        counted = np.isfinite(written) & np.isfinite(remaining) & (written > 0)
        share = float((remaining[counted] < KEPT_SHARE * written[counted]).mean()) if counted.any() else float("nan")
        layers = count_of(model.about, "n_layers")
        found.append(Removed(name, layers, int(counted.sum()), share))
    return found


def plot_removed(shown: Sequence[Removed], widths: Mapping[str, int | None] | None = None) -> go.Figure:
    """Share of writers that are mostly gone at the end, against depth; colour and symbol are the family, fill the width.

    ``widths``: those of the models, by name.
    """
    members: dict[tuple[str, int | None], list[Removed]] = {}
    for one in shown:
        members.setdefault((family_of(one.model), (widths or {}).get(one.model)), []).append(one)
    families = list(dict.fromkeys(family for family, _ in members))
    having = {family: [width for other, width in members if other == family] for family in families}
    data = [
        _removed_trace(
            several, families.index(family), having[family].index(width), _title(family, width, having[family])
        )
        for (family, width), several in members.items()
    ]
    layers = sorted({one.n_layers for one in shown if one.n_layers is not None})
    wide = bool(layers) and layers[-1] > 8 * layers[0] > 0
    highest = max([one.share for one in shown], default=0.0)
    return figure(
        data,
        x_title="layers" + (" (logarithmic)" if wide else ""),
        y_title="share of writers",
        height=400,
        xaxis={"type": "log" if wide else "linear", "tickmode": "array", "tickvals": layers},
        yaxis={"range": [-0.03 * max(highest, _LEAST_SHARE), 1.08 * max(highest, _LEAST_SHARE)], "tickformat": ".0%"},
        showlegend=True,
    )


def _title(family: str, width: int | None, widths: Sequence[int | None]) -> str:
    """The family's name, and the width where the family has several."""
    return family if len(widths) == 1 else f"{family}, width {amount(width)}"


def _removed_trace(members: Sequence[Removed], family: int, width: int, name: str) -> go.Scatter:
    colour, symbol = look_of(family)
    return go.Scatter(
        x=[one.n_layers for one in members],
        y=[one.share for one in members],
        name=text(name),
        hovertext=[f"<b>{text(one.model)}</b><br>{one.share:.1%} of {one.n_writers} writers" for one in members],
        mode="markers",
        marker={
            "symbol": symbol,
            "color": colour if width % 2 == 0 else shade(colour, PALE),
            **{"size": 12, "line": {"width": 1.5, "color": colour}},
        },
        hovertemplate="%{hovertext}<extra></extra>",
    )


def depth_card(models: Sequence[ModelTables]) -> Card:
    """A panel per model."""
    names = display_names(models)
    found = {name: lines for name, model in zip(names, models, strict=True) if (lines := depth_lines(model))}
    panels = dict(list(found.items())[:_MOST_PANELS])
    values = [line.median for lines in panels.values() for line in lines]
    y_range = robust_range(np.concatenate(values), np.array([]), limit=4.0) if values else [0.0, 1.0]
    missing = [name for name in names if name not in found]
    said = f" Nothing was measured for {first_of(missing)}." if missing else ""
    said += f" Drawn are the first {len(panels)} of {len(found)} models." if len(panels) < len(found) else ""
    return Card(
        "depth",
        "What is left through depth",
        f"Median {RATIO_TITLE}, through each model's depth: 0 is the first state, 1 the last. Each model's most "
        "erased writer (the most opposed one where erasing by reading was not measured) beside its embeddings; all "
        f"panels share one axis, which ends at ±4: a line that leaves it goes on beyond.{said}",
        {str(index): plot_depth(lines, y_range) for index, lines in enumerate(panels.values())},
        panels=list(panels),
        empty="No model has a residual_projection with measured writers.",
        tables=("residual_projection", "writers"),
    )


def removed_card(models: Sequence[ModelTables]) -> Card:
    """One figure: shares against layers."""
    final = [one for one, model in zip(removed(models), models, strict=True) if not is_checkpoint(model.about)]
    shown = [one for one in final if np.isfinite(one.share) and one.n_layers is not None]
    checkpoints = "" if len(final) == len(models) else " Checkpoints are left out."
    widths = {name: count_of(model.about, "d_model") for name, model in zip(display_names(models), models, strict=True)}
    counts = first_of([f"{one.model} {amount(one.n_writers)}" for one in shown])
    return Card(
        "removed",
        "How many writers are mostly gone at the end",
        "Share of a model's writers of which less than half of what was written remains in the last state. Counted are "
        f"writers with a positive share written: {counts}.{checkpoints}",
        {"0": plot_removed(shown, widths)} if shown else {},
        empty="No model has writers with written and remaining measured, checkpoints aside.",
        tables=("writers",),
    )
