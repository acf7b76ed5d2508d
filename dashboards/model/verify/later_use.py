"""What writes along a writer again, behind its erasers."""

from __future__ import annotations

import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.choices import target_control
from erasure_sweep.dashboards.model.verify.component_runs import ComponentRuns, component_runs, strongest_components
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, plot_runs
from erasure_sweep.dashboards.plots.theme import text
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, rows_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import table_of


def later_use(model: ModelTables, target: VerifiedGroup) -> ComponentRuns | None:
    """Every component behind the erasers, as it is and with the erasers patched; the largest of very many."""
    return component_runs(
        target.writer, rows_of(table_of(model.tables, "later_use"), target), ("clean", "patched"), "response"
    )


def plot_later_use(shown: ComponentRuns) -> go.Figure:
    """Components behind the erasers, as they are and with the erasers patched."""
    styles = {"clean": CLEAN, "patched": PATCHED._replace(name="with the erasers patched")}
    most = strongest_components(shown, (shown.beta >= NOTICEABLE) & ~(shown.low <= 0))
    along = (
        f"Because it is erased, write more along {shown.writer} or take less of it out, pooled β clean minus patched: {most}."
        if most
        else ""
    )
    none = "" if most else f"No component behind the erasers makes up for what they take of {shown.writer}."
    more = f" Drawn are the {len(shown.labels)} with the largest answer; {shown.left_out} others are left out."
    return plot_runs(
        shown.labels,
        [(styles[name], values) for name, values in shown.runs.items()],
        x_title="component behind the erasers, in stream order",
        y_title=f"projection ratio onto {text(shown.writer)}",
        sentence=f"{along}{none}{more if shown.left_out else ''}",
    )


@card(MODEL, "later-use", VERIFIED, order=100, when=is_verified)
def later_use_card(view: ModelView) -> Card:
    pairs = [(target, runs) for target in view.offered_targets if (runs := later_use(view.model, target))]
    return Card(
        "What writes along it behind its erasers",
        "Projection onto the writer of everything that comes behind the attention layer of its last eraser, as it is "
        "and with the erasers patched. Above 0 a component writes along the writer, whatever its reasons. Where it "
        "stands lower with the erasers patched, it does so because they erase: it makes up for them, by writing it "
        "anew or by taking less of it out. Points are medians over all measured tokens, bars the quartiles (25 to "
        "75 %). The axis ends at ±4.",
        {str(index): plot_later_use(runs) for index, (_, runs) in enumerate(pairs)},
        [target_control([pair_name(target) for target, _ in pairs])] if pairs else [],
        min_width=min(900, 18 * max((len(runs.labels) for _, runs in pairs), default=0)),
        empty="This was not measured, or nothing comes behind the erasers: the table later_use holds none.",
        tables=("later_use",),
    )
