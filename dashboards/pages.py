"""The page of one model, single figures of it as pages of their own, and the page that puts models side by side.

Each is one HTML file that works from disk without a network. Missing tables, writers that are zero and models that
failed leave a page that says so in the place where the figure would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.overview import notices, texts_line
from erasure_sweep.dashboards.comparison.page import comparison_parts
from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import Card, Control, Part
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.reading_cards import reading_cards
from erasure_sweep.dashboards.model.trust import trust_line, trust_table
from erasure_sweep.dashboards.model.verify_cards import verdict_list, verify_cards
from erasure_sweep.dashboards.model.writers_table import first_of, most_erased, writers_in_numbers
from erasure_sweep.dashboards.model_names import counted, display_names, in_order, name_of
from erasure_sweep.dashboards.model_tables import Grid, ModelTables, grid_of, read_out, reading_of
from erasure_sweep.dashboards.plots.heatmaps import MAX_WRITERS, TOP_ROWS, heatmap, plot_heatmap
from erasure_sweep.dashboards.plots.ledger import ledger, plot_ledger
from erasure_sweep.dashboards.plots.presence import (
    layer_steps,
    onto_writer,
    plot_layer,
    plot_onto,
    plot_presence,
    presence,
)
from erasure_sweep.dashboards.wording import measured_line, model_line, number
from erasure_sweep.workers.tables.facts.erasure import erasers_of, is_ranked, top_writers, writers_by_rank
from erasure_sweep.workers.tables.facts.verified import was_verified
from erasure_sweep.workers.tables.values import Tables, numeric

__all__ = ["ModelTables", "read_out"]
__all__ += ["comparison_page_parts", "model_parts", "write_comparison", "write_figures", "write_model_page"]

TOP_WRITERS = 5
MAX_OFFERED = 60
SINGLE_FIGURES = ("presence", "causal")
"""Cards of a model's page that are pages of their own as well."""

_FIRST = ("erased", "causal", "presence", "ledger")
"""What a model's page shows first, behind whose DLA to trust."""


def write_model_page(
    model: ModelTables,
    path: Path,
    sweep: dict[str, Any],
    home: Home | None = None,
    up: tuple[str, str] | None = None,
    parts: Sequence[Part] | None = None,
) -> None:
    """One self-contained HTML page with every figure of one model.

    Args:
        sweep: the manifest.
        home: where the model's tables and run are, as seen from the page.
        up: href and words of a link above the title.
        parts: what ``model_parts`` made, where that is at hand.
    """
    name = name_of(model.about)
    shown = model_parts(model) if parts is None else parts
    intro = _model_intro(model, sweep, writers_by_rank(model.tables))
    write_document(path, f"Erasure in {name}", intro, shown, {name: home or Home()}, up)


def write_figures(
    model: ModelTables,
    folder: Path,
    home: Home | None = None,
    up: tuple[str, str] | None = None,
    parts: Sequence[Part] | None = None,
) -> None:
    """Each of ``SINGLE_FIGURES`` as a page of its own in ``folder``; none of those that have nothing to draw.

    Arguments are those of ``write_model_page``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name_of(model.about)
    shown = model_parts(model) if parts is None else parts
    drawn = {part.key: part for part in shown if isinstance(part, Card) and part.figures}
    intro = Markup('<p class="protocol">{}</p>').format(model_line(model.about))
    for key in SINGLE_FIGURES:
        path = folder / f"{key}.html"
        if key in drawn:
            title = f"{drawn[key].title}: {name}"
            write_document(path, title, intro, [drawn[key]], {name: home or Home()}, up)
        else:
            path.unlink(missing_ok=True)  # of an earlier run that measured it


def model_parts(model: ModelTables) -> list[Part]:
    """The tables, figures and texts of one model's page in reading order."""
    read = _read(model)
    trust = trust_table(model)
    figures = [
        *reading_cards(model, read.reading, read.writers, read.top, read.offered),
        _presence_card(read.residual, read.offered, read.most),
        _ledger_card(read.components, read.writers, read.offered),
        _layer_card(read.residual),
        _onto_card(read.components, read.offered),
    ]
    first = [part for key in _FIRST for part in figures if part.key == key]
    unmeasured = [trust] if was_verified(model.tables) and not trust.rows else []
    groups: dict[str, list[Part]] = {
        "At a glance": [*([trust] if trust.rows else []), *first],
        "Writer by writer": [part for part in figures if part.key not in _FIRST],
        "Verified writers": [*verify_cards(model), *unmeasured],
        "All writers": [
            _heatmap_card(read.residual, read.components, read.top, read.most),
            writers_in_numbers(read.writers, read.reading, read.components),
        ],
    }
    return [replace(part, group=group) for group, parts in groups.items() for part in parts]


class _Read(NamedTuple):
    """A model's tables as its figures take them."""

    residual: Grid
    components: Grid
    reading: Grid
    writers: pd.DataFrame
    top: list[str]
    """All measured writers, the most erased first."""
    offered: list[str]
    """Those with figures of their own."""
    most: str


def _read(model: ModelTables) -> _Read:
    residual = grid_of(model.tables.get("residual_projection"), "state")
    components = grid_of(model.tables.get("component_projection"), "component")
    writers = writers_by_rank(model.tables)
    # without a writers table nothing says who is erased: then all measured writers, in stream order
    top = top_writers(model.tables) or residual.measured or components.measured
    # a figure for each of many more writers would make the page slow to write and heavy to open
    offered = top if len(top) <= MAX_OFFERED else top[:TOP_ROWS]
    return _Read(residual, components, reading_of(model), writers, top, offered, most_erased(writers))


def write_comparison(
    models: list[ModelTables], path: Path, sweep: dict[str, Any], homes: Mapping[str, Home] | None = None
) -> None:
    """One self-contained HTML page with the models side by side.

    Args:
        sweep: the manifest; its ``left_out`` are lines on models that could not be read.
        homes: where each model's page, tables and run are, by the name in its ``about``.
    """
    models = in_order(models)
    shown = _by_display_name(models, homes)
    intro = render(
        "comparison_intro.html.j2",
        notices=notices(models, sweep),
        left_out=sweep.get("left_out") or [],
        protocol=f"{measured_line({}, sweep)} {texts_line(models, sweep)}".rstrip(),
    )
    write_document(path, f"Erasure across {counted(models)}", intro, comparison_page_parts(models, sweep, homes), shown)


def comparison_page_parts(
    models: list[ModelTables], sweep: dict[str, Any], homes: Mapping[str, Home] | None = None
) -> list[Part]:
    """The tables, figures and texts of the page that puts models side by side; arguments as of ``write_comparison``."""
    models = in_order(models)
    return list(comparison_parts(models, _by_display_name(models, homes), sweep))


def _by_display_name(models: Sequence[ModelTables], homes: Mapping[str, Home] | None) -> dict[str, Home]:
    found = [(homes or {}).get(name_of(model.about), Home()) for model in models]
    return dict(zip(display_names(models), found, strict=True))


def _model_intro(model: ModelTables, sweep: dict[str, Any], writers: pd.DataFrame) -> Markup:
    about = model.about
    unfinished = ""
    if about.get("state") not in (None, "FINISHED"):
        reason = f": {about['reason']}" if about.get("reason") else ""
        unfinished = f"This model was not measured in full ({str(about['state']).lower()}{reason})."
    return render(
        "model_intro.html.j2",
        unfinished=unfinished,
        paragraphs=(_headline(model, writers), trust_line(model)),
        verdicts=verdict_list(model),
        model=model_line(about),
        measured=measured_line(about, sweep),
    )


def _headline(model: ModelTables, writers: pd.DataFrame) -> str:
    said = _most_erased(model.tables, writers)
    said += _most_opposed(writers, bool(said))
    if not said and was_verified(model.tables):
        # without a scan there is nothing to say of all writers
        return ""
    return " ".join(said) or "No writer was measured in this model."


def _most_erased(tables: Tables, writers: pd.DataFrame) -> list[str]:
    """What is erased by reading most, in a sentence; none where that was not measured, or nothing is."""
    erased, remaining = numeric(writers, "erased_by_reading"), numeric(writers, "remaining")
    if not is_ranked(writers) or not erased[0] > 0:
        return []
    writer, written = str(writers["writer"].iloc[0]), numeric(writers, "written")[0]
    named = erasers_of(tables, writer)
    by = f" (erasers: {first_of(named)})" if named else ""
    ends = f"in the stream it is at {number(written)} where it writes and at {number(remaining[0])} at the end"
    return [
        f"Most erased by reading: {writer}. Later heads take out {number(erased[0])} of it because they read it{by}. "
        f"That is not the net change: {ends}. Other components, and the same heads for other reasons, can write it back."
    ]


def _most_opposed(writers: pd.DataFrame, is_also_erased: bool) -> list[str]:
    """What is opposed most; in a few words where the sentence before was of the same writer, the first."""
    opposed = numeric(writers, "opposed")
    if not np.isfinite(opposed).any():
        return []
    row = int(np.nanargmin(opposed))
    against = f"later components opposed {number(-opposed[row])} in sum"
    if is_also_erased and row == 0:
        return [f"It is also the most opposed: {against}."]
    written, remaining = numeric(writers, "written")[row], numeric(writers, "remaining")[row]
    return [
        f"Most opposed: {writers['writer'].iloc[row]}, with {number(written)} of its output in the stream where it "
        f"writes and {number(remaining)} at the end ({against})."
    ]


def _presence_card(residual: Grid, offered: list[str], most: str) -> Card:
    measured = set(residual.measured)
    shown = [presence(residual, writer) for writer in offered if writer in measured]
    first = min(TOP_WRITERS, len(shown))
    figures = {"0": plot_presence(shown[:first])} if shown else {}
    figures |= {str(index): plot_presence([one]) for index, one in enumerate(shown, start=1)}
    names = [f"the {first} {most}", *(one.writer for one in shown)] if shown else []
    return Card(
        "presence",
        "What is left of a writer",
        "How much of a writer's output each state of the residual stream holds. 1 is all of it, 0 none; below 0 "
        "later components wrote more against it than it wrote. Lines are medians over all measured tokens, the "
        "large marker is the first state with the writer's output. Bands span the quartiles (25 to 75 %), for one "
        "writer alone also 12.5 to 87.5 %. The axis leaves out distant tails.",
        figures,
        [Control("Writer", names)] if names else [],
        empty="The table residual_projection is missing or holds no measured writer.",
        tables=("residual_projection",),
    )


def _layer_card(residual: Grid) -> Card:
    steps = layer_steps(residual) if residual.measured else []
    figures = {
        str(index): plot_layer([presence(residual, writer) for writer in members])
        for index, (_, members) in enumerate(steps)
    }
    return Card(
        "layers",
        "All writers of a layer",
        "Median share of each writer's output in each state, one layer at a time; the large marker is the first "
        "state with the writer's output, before which a value is what happens to lie along it already. Click a name "
        "in the legend to hide it, double-click to see it alone. Medians beyond ±4 are outside the axis.",
        figures,
        [Control("Layer", [name for name, _ in steps], "range")] if steps else [],
        empty="The table residual_projection is missing or holds no measured writer.",
        tables=("residual_projection",),
    )


def _onto_card(components: Grid, offered: list[str]) -> Card:
    measured = set(components.measured)
    writers = [writer for writer in offered if writer in measured]
    return Card(
        "onto",
        "Who writes along a writer, and who against it",
        "Projection of every other component's output onto the writer's: above 0 it adds to what the writer wrote, "
        "below 0 it takes away. Points are medians over all measured tokens, bars the quartiles (25 to 75 %). "
        "Shaded are components after the writer, which can have read it; others coincide with it by chance or "
        "design. A whole attention layer is the sum of its heads and bias; a head's own layer, which holds the head "
        "itself, is left out. The axis ends at ±4.",
        {str(index): plot_onto(onto_writer(components, writer)) for index, writer in enumerate(writers)},
        [Control("Writer", writers)] if writers else [],
        min_width=min(900, 14 * len(components.columns)),
        empty="The table component_projection is missing or holds no measured writer.",
        tables=("component_projection",),
    )


def _heatmap_card(residual: Grid, components: Grid, top: list[str], most: str) -> Card:
    figures: dict[str, go.Figure] = {}
    names: list[str] = []
    aggregated = False
    for grid, name, title in (
        (residual, "states of the residual stream", "state of the residual stream"),
        (components, "components", "component"),
    ):
        if grid.measured:
            shown = heatmap(grid, top)
            aggregated = aggregated or shown.aggregated
            figures[str(len(names))] = plot_heatmap(shown, title)
            names.append(name)
    many = (
        f" This model has more than {MAX_WRITERS} writers: rows are the median over each layer's writers, then the "
        f"{TOP_ROWS} {most} writers; component columns are whole attention layers, MLPs and embeddings. Every "
        "pair is in the parquet tables."
    )
    return Card(
        "heatmaps",
        "All writers at once",
        "Median projection ratio onto each writer (row): of each state, or of each other component. Blue is present "
        "or added, red is opposed, white (dark on a dark page) is 0; colours end at ±1, the exact numbers and quartiles "
        "are under the pointer. Grey is the writer itself, its own attention layer, or not measured."
        f"{many if aggregated else ''}",
        figures,
        [Control("Columns", names)] if names else [],
        min_width=520,
        empty="Neither residual_projection nor component_projection holds a measured writer.",
        tables=("residual_projection", "component_projection"),
    )


def _ledger_card(components: Grid, writers: pd.DataFrame, offered: list[str]) -> Card:
    measured = set(components.measured) & set(writers["writer"].astype(str)[np.isfinite(numeric(writers, "written"))])
    names = [writer for writer in offered if writer in measured]
    figures = {
        f"{index}.{int(centred)}": plot_ledger(ledger(components, writers, writer, centred))
        for index, writer in enumerate(names)
        for centred in (False, True)
    }
    return Card(
        "ledger",
        "The ledger of a writer",
        "Pooled over all tokens the shares add up exactly: what the writer wrote (with what its own sublayer and "
        "earlier ones hold along it), plus what later sublayers reinforced (+, blue), minus what they opposed (−, "
        "red), is what remains. Attention is counted head by head and bias, so a layer can have both. 'Means "
        "removed' takes each component's average over tokens out first: what is then still opposed is information, "
        "not a constant.",
        figures,
        [Control("Writer", names), Control("Outputs", ["as they are", "means removed"])] if names else [],
        min_width=min(800, 24 * _most_steps(figures)),
        empty="The ledger needs the tables component_projection and writers with a measured writer.",
        tables=("component_projection", "writers"),
    )


def _most_steps(figures: dict[str, go.Figure]) -> int:
    return max((len(figure.data[0].x) for figure in figures.values()), default=0)
