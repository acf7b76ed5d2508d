"""MLPs that erase a writer."""

from __future__ import annotations

import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.verify.choices import writer_control
from erasure_sweep.dashboards.model.verify.component_runs import ComponentRuns, component_runs, strongest_components
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, READ, plot_runs
from erasure_sweep.dashboards.plots.theme import text
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import rows_where, table_of


def mlp_erasers(model: ModelTables, writer: str) -> ComponentRuns | None:
    """Every MLP behind the writer: as it is, without the writer in its input, and what it writes because it reads it."""
    table = rows_where(table_of(model.tables, "mlp_erasure"), writer=writer)
    return component_runs(writer, table, ("clean", "patched", "read"), "beta")


def plot_mlps(shown: ComponentRuns) -> go.Figure:
    """MLPs as they are, without the writer in their input, and the difference of the two."""
    styles = {"clean": CLEAN, "patched": PATCHED, "read": READ}
    most = strongest_components(shown, shown.beta <= -NOTICEABLE)
    sentence = (
        f"What MLPs write against {shown.writer} because they read it, pooled β: {most}."
        if most
        else f"No MLP writes against {shown.writer} because it reads it."
    )
    return plot_runs(
        shown.labels,
        [(styles[name], values) for name, values in shown.runs.items()],
        x_title="MLP, in stream order",
        y_title=f"projection ratio onto {text(shown.writer)}",
        sentence=sentence,
    )


@card(MODEL, "mlp-erasers", VERIFIED, order=90, when=is_verified)
def mlp_card(view: ModelView) -> Card:
    shown = [runs for writer in view.verified_writers("mlp_erasure") if (runs := mlp_erasers(view.model, writer))]
    return Card(
        "MLPs that erase it",
        "Projection onto the writer of every MLP behind it: as it is, with the writer's output taken out of the MLP's "
        "input (the scale of its LayerNorm kept), and the difference of the two, which the MLP writes because it reads "
        "the writer. Points are medians over all measured tokens, bars the quartiles (25 to 75 %). The axis ends at ±4.",
        {str(index): plot_mlps(runs) for index, runs in enumerate(shown)},
        [writer_control([runs.writer for runs in shown])] if shown else [],
        empty="This was not measured, or the model has no MLP behind a verified writer: the table mlp_erasure holds none.",
        tables=("mlp_erasure",),
    )
