"""Where in the prompt a writer is erased."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.choices import target_control
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.bands import band
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, RATIO_LIMIT, Quartiles, quartiles
from erasure_sweep.dashboards.plots.theme import GREY, figure, robust_range, shade, single, text
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, rows_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, table_of


class PresenceByPosition(NamedTuple):
    """A target's group in bins of positions, and how much the writer writes there (root mean square of its norm)."""

    target: VerifiedGroup
    bins: list[str]
    clean: Quartiles
    patched: Quartiles
    norm: Floats


def position_profile(model: ModelTables, target: VerifiedGroup) -> PresenceByPosition | None:
    """The bins in which something was measured, in the order of positions; None where there is none."""
    table = rows_of(table_of(model.tables, "position_profile"), target)
    first, last = numeric(table, "first_position"), numeric(table, "last_position")
    measured = np.isfinite(quartiles(table, "clean").median) | np.isfinite(quartiles(table, "patched").median)
    order = [row for row in np.argsort(first, kind="stable") if measured[row]]
    if not order:
        return None
    table, ends = table.iloc[order], zip(first[order], last[order], strict=True)
    clean, patched = quartiles(table, "clean"), quartiles(table, "patched")
    bins = [f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}" for low, high in ends]
    return PresenceByPosition(target, bins, clean, patched, numeric(table, "writer_norm"))


def plot_profile(shown: PresenceByPosition) -> go.Figure:
    """The group's projection above, the writer's norm below, over the same bins."""
    data: list[Any] = []
    for style, values, dash in ((CLEAN, shown.clean, "solid"), (PATCHED, shown.patched, "dash")):
        data += band(shown.bins, values.q25, values.q75, shade(style.colour, 0.2), style.name)
        data.append(
            go.Scatter(
                x=shown.bins,
                y=single(values.median),
                customdata=single(np.stack([values.q25, values.q75], axis=1)),
                name=style.name,
                legendgroup=style.name,
                mode="lines+markers",
                line={"color": style.colour, "dash": dash, "width": 2},
                marker={"symbol": style.symbol, "size": 7},
                hovertemplate="positions %{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
            )
        )
    for trace in data:
        trace.yaxis = "y2"
    bars = go.Bar(
        x=shown.bins,
        y=single(shown.norm),
        name="norm of the writer's output",
        marker={"color": shade(GREY, 0.6)},
        hovertemplate="positions %{x}: %{y:.3g}<extra></extra>",
    )
    medians = np.append(shown.clean.median, shown.patched.median)
    edges = np.concatenate([shown.clean.q25, shown.clean.q75, shown.patched.q25, shown.patched.q75])
    return figure(
        [*data, bars],
        x_title="position in the prompt",
        y_title="writer's norm",
        height=520,
        sentence=_profile_sentence(shown),
        xaxis={"type": "category", "anchor": "y"},
        yaxis={"domain": [0, 0.26], "rangemode": "tozero", "nticks": 4},
        yaxis2={
            **{
                "domain": [0.34, 1],
                "anchor": "x",
                "range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=RATIO_LIMIT),
            },
            "title": {"text": f"the group's projection ratio<br>onto {text(shown.target.writer)}"},
        },
        showlegend=True,
    )


def _profile_sentence(shown: PresenceByPosition) -> str:
    read = shown.clean.median - shown.patched.median
    if not np.isfinite(read).any():
        return ""
    at = int(np.nanargmin(read))
    return (
        f"Erased most at position {shown.bins[at]}: median over tokens of the group {number(shown.clean.median[at])}, "
        f"{number(shown.patched.median[at])} without reading {shown.target.writer}."
    )


@card(MODEL, "position-profile", VERIFIED, order=80, when=is_verified)
def profile_card(view: ModelView) -> Card:
    shown = [profile for target in view.offered_targets if (profile := position_profile(view.model, target))]
    return Card(
        "Where in the prompt it is erased",
        "The group's projection onto the writer by position in the prompt, as it is and without reading the writer: "
        "medians and quartiles (25 to 75 %) over the tokens of each bin, which doubles in width from one to the next. "
        "Below, how much the writer writes there (root mean square of its norm). The axis ends at ±4.",
        {str(index): plot_profile(profile) for index, profile in enumerate(shown)},
        [target_control([pair_name(profile.target) for profile in shown])] if shown else [],
        empty="This run did not measure it: the table position_profile is missing or holds none.",
        tables=("position_profile",),
    )
