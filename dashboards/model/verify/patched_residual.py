"""What is left of a writer when its erasers cannot read it (Fig 3a), in every state of the stream.

In the patched run the writer's output is taken out of the erasers' value inputs and everything later is computed anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.choices import drawn, target_control
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.bands import STATE_TITLE, band
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, RATIO_LIMIT, RunStyle
from erasure_sweep.dashboards.plots.theme import RATIO_TITLE, figure, robust_range, shade, single
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import state_order, state_place
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, rows_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, table_of

BANDS = (("q25", "q75"), ("q12_5", "q87_5"))
"""Quantiles between which a band lies: the quartiles, and the three quarters in the middle of the published figures."""
PATCHES = {"group": "the erasers named", "layer": "every head of their layers"}
_BAND_NAMES = ("25 to 75 %", "12.5 to 87.5 %")


class PatchedStates(NamedTuple):
    """The writer's presence in every state, as it is and with the erasers patched; a band for each."""

    writer: str
    states: list[str]
    clean: Floats
    clean_band: tuple[Floats, Floats]
    patched: Floats
    patched_band: tuple[Floats, Floats]


def patched_states(
    model: ModelTables, target: VerifiedGroup, patch: str, ends: tuple[str, str]
) -> PatchedStates | None:
    """What Fig 3a shows; ``patch`` is ``group`` or ``layer``, ``ends`` one of ``BANDS``. None where not measured."""
    table = rows_of(table_of(model.tables, "patched_residual_projection"), target)
    if not len(table) or not {"patch", "state"} <= set(table.columns):
        return None
    table = table[table["patch"] == patch].drop_duplicates("state").set_index("state")
    states = state_order(table.index.astype(str))
    table = table.loc[states]
    runs = [[numeric(table, f"{run}_{name}") for name in ("median", *ends)] for run in ("clean", "patched")]
    if not np.isfinite(runs).any():
        return None
    (clean, *clean_band), (patched, *patched_band) = runs
    return PatchedStates(
        target.writer, states, clean, (clean_band[0], clean_band[1]), patched, (patched_band[0], patched_band[1])
    )


def plot_states(shown: PatchedStates) -> go.Figure:
    """Fig 3a: a line and a band for each run; where they part, the erasers have read the writer."""
    data: list[Any] = []
    for style, median, ends, dash in (
        (CLEAN, shown.clean, shown.clean_band, "solid"),
        (PATCHED, shown.patched, shown.patched_band, "dash"),
    ):
        data += band(shown.states, *ends, shade(style.colour, 0.2), style.name)
        data.append(_line(shown.states, median, ends, style, dash))
    medians = np.append(shown.clean, shown.patched)
    edges = np.concatenate([*shown.clean_band, *shown.patched_band])
    return figure(
        data,
        x_title=STATE_TITLE,
        y_title=RATIO_TITLE.replace(" (", "<br>("),
        height=440,
        sentence=_states_sentence(shown),
        xaxis={"type": "category"},
        yaxis={"range": robust_range(medians, edges, limit=RATIO_LIMIT)},
        showlegend=True,
    )


def _line(states: list[str], median: Floats, ends: tuple[Floats, Floats], style: RunStyle, dash: str) -> go.Scatter:
    return go.Scatter(
        x=states,
        y=single(median),
        customdata=single(np.stack(ends, axis=1)),
        name=style.name,
        legendgroup=style.name,
        mode="lines+markers",
        line={"color": style.colour, "dash": dash, "width": 2},
        marker={"symbol": style.symbol, "size": 7, "color": style.colour},
        hovertemplate="%{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
    )


def _states_sentence(shown: PatchedStates) -> str:
    """The lowest state behind the writer, where erasure is most to be seen, and the last one."""
    apart = np.abs(shown.patched - shown.clean)
    places = [state_place(state) for state in shown.states]
    if not np.isfinite(apart).any() or None in places:
        return ""
    widest = int(np.nanargmax(apart))
    medians = [
        f"{number(shown.clean[at])} at {shown.states[at]}, {number(shown.patched[at])} without reading the writer"
        for at in dict.fromkeys([widest, len(shown.states) - 1])
    ]
    return f"Median of {shown.writer} present: {'; '.join(medians)}."


@card(MODEL, "patched-states", VERIFIED, order=10, when=is_verified)
def states_card(view: ModelView) -> Card:
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    for target in view.offered_targets:
        views = [patched_states(view.model, target, patch, ends) for patch in PATCHES for ends in BANDS]
        if any(view is not None for view in views):
            keys = [f"{len(names)}.{patch}.{ends}" for patch in range(len(PATCHES)) for ends in range(len(BANDS))]
            figures |= {key: drawn(view, plot_states) for key, view in zip(keys, views, strict=True)}
            names.append(pair_name(target))
    return Card(
        "What is left of a writer when its erasers cannot read it",
        "How much of the writer's output each state of the residual stream holds (1 is all of it, 0 none): as the model "
        "is, and with the writer's output taken out of the value inputs of its erasers, or of every head of their "
        "layers, everything later computed anew. Lines are medians over all measured tokens, bands the quantiles "
        "chosen above. Where the lines part, the erasers are at work. The axis ends at ±4. Offered are verified writers.",
        figures,
        [
            target_control(names),
            Control("Patched", list(PATCHES.values())),
            Control("Bands", _BAND_NAMES),
        ]
        if names
        else [],
        empty="This run did not measure it: the table patched_residual_projection is missing or holds none.",
        tables=("patched_residual_projection",),
    )
