"""MLPs that erase a writer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.verify.choices import writer_control
from erasure_sweep.dashboards.model.verify.component_runs import ComponentRuns, component_runs, strongest_components
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, READ, plot_runs
from erasure_sweep.dashboards.plots.theme import text
from erasure_sweep.workers.tables.facts.verdict import FOUND, SHRINKS
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import rows_where, strings, table_of


class MlpRuns(NamedTuple):
    """Every MLP behind a writer, and what was found of each."""

    runs: ComponentRuns
    words: dict[str, str | None]
    """Verdicts; None where there was nothing to tell by."""


def mlp_erasers(model: ModelTables, writer: str) -> MlpRuns | None:
    """Every MLP behind the writer: as it is, without the writer in its input, and what it writes because it reads it."""
    table = rows_where(table_of(model.tables, "mlp_erasure"), writer=writer)
    runs = component_runs(writer, table, ("clean", "patched", "read"), "beta")
    words = zip(strings(table, "component"), strings(table, "verdict"), strict=True)
    return None if runs is None else MlpRuns(runs, {label: word for label, word in words if label is not None})


def plot_mlps(shown: MlpRuns) -> go.Figure:
    """MLPs as they are, without the writer in their input, and the difference of the two."""
    styles, runs = {"clean": CLEAN, "patched": PATCHED, "read": READ}, shown.runs
    return plot_runs(
        runs.labels,
        [(styles[name], values) for name, values in runs.runs.items()],
        x_title="MLP, in stream order",
        y_title=f"projection ratio onto {text(runs.writer)}",
        sentence=_sentence(shown),
    )


def _sentence(shown: MlpRuns) -> str:
    """Which MLPs take the writer out, and which do so with everything."""
    runs, words = shown.runs, [shown.words.get(label) for label in shown.runs.labels]
    erasing, shrinking = (
        strongest_components(runs, np.array([word in these for word in words])) for these in (FOUND, (SHRINKS,))
    )
    if not any(words):
        return (
            "Without intervals and placebos nothing says whether an MLP takes out this writer more than anything else."
        )
    parts = [
        f"MLPs take {runs.writer} out because they read it, beyond what they do to its placebos, pooled β: {erasing}."
        if erasing
        else f"No MLP takes {runs.writer} out beyond what it does to its placebos.",
        f"What they shrink they shrink alike, whatever it is: {shrinking}." if shrinking else "",
    ]
    return " ".join(filter(None, parts))


@card(MODEL, "mlp-erasers", VERIFIED, order=90, when=is_verified)
def mlp_card(view: ModelView) -> Card:
    shown = [each for writer in view.verified_writers("mlp_erasure") if (each := mlp_erasers(view.model, writer))]
    return Card(
        "MLPs that erase it",
        "Projection onto the writer of every MLP behind it: as it is, with the writer's output taken out of the MLP's "
        "input (the scale of its LayerNorm kept), and the difference of the two, which the MLP writes because it reads "
        "the writer. An MLP answers to any change: it takes this writer out only where it takes out more of it than of "
        "its placebos, the writer's output turned at random. Points are medians over all measured tokens, bars the "
        "quartiles (25 to 75 %). The axis ends at ±4.",
        {str(index): plot_mlps(each) for index, each in enumerate(shown)},
        [writer_control([each.runs.writer for each in shown])] if shown else [],
        empty="This was not measured, or the model has no MLP behind a verified writer: the table mlp_erasure holds none.",
        tables=("mlp_erasure",),
    )
