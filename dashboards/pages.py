"""The page of one model, single figures of it as pages of their own, and the page that puts models side by side.

Each is one HTML file that works from disk without a network. Missing tables, writers that are zero and models that
failed leave a page that says so in the place where the figure would be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from erasure_sweep.dashboards.comparison.overview import notices, texts_line
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import Card, Part
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.intro import model_intro
from erasure_sweep.dashboards.model.view import MODEL, ModelView
from erasure_sweep.dashboards.model_names import counted, display_names, in_order, name_of
from erasure_sweep.dashboards.wording import measured_line, model_line
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.facts.erasure import writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables


def write_model_page(
    model: ModelTables,
    path: Path,
    sweep: Manifest | None,
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
    intro = model_intro(model, sweep, writers_by_rank(model.tables))
    write_document(path, f"Erasure in {name}", intro, shown, {name: home or Home()}, up)


def write_figures(
    model: ModelTables,
    folder: Path,
    home: Home | None = None,
    up: tuple[str, str] | None = None,
    parts: Sequence[Part] | None = None,
) -> None:
    """Each card that is a page of its own as well, as a page in ``folder``; none of those that have nothing to draw.

    Arguments are those of ``write_model_page``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name_of(model.about)
    shown = model_parts(model) if parts is None else parts
    drawn = {part.key: part for part in shown if isinstance(part, Card) and part.figures}
    intro = Markup('<p class="protocol">{}</p>').format(model_line(model.about))
    for key in (entry.key for entry in MODEL.entries() if entry.alone):
        path = folder / f"{key}.html"
        if key in drawn:
            title = f"{drawn[key].title}: {name}"
            write_document(path, title, intro, [drawn[key]], {name: home or Home()}, up)
        else:
            path.unlink(missing_ok=True)  # of an earlier run that measured it


def model_parts(model: ModelTables, keys: Collection[str] | None = None) -> list[Part]:
    """The tables, figures and texts of one model's page in reading order; only those of ``keys``, where these are given."""
    return MODEL.parts(ModelView(model), keys)


def write_comparison(
    models: list[ModelTables],
    path: Path,
    sweep: Manifest | None,
    homes: Mapping[str, Home] | None = None,
    left_out: Sequence[str] = (),
) -> None:
    """One self-contained HTML page with the models side by side.

    Args:
        sweep: the manifest, or what several sweeps share.
        homes: where each model's page, tables and run are, by the name in its ``about``.
        left_out: lines on models that could not be read.
    """
    parts = comparison_page_parts(models, sweep, homes)
    models = in_order(models)
    intro = render(
        "comparison_intro.html.j2",
        notices=notices(models, sweep),
        left_out=left_out,
        protocol=f"{measured_line(None, sweep)} {texts_line(models, sweep)}".rstrip(),
    )
    write_document(path, f"Erasure across {counted(models)}", intro, parts, _by_display_name(models, homes))


def comparison_page_parts(
    models: list[ModelTables],
    sweep: Manifest | None,
    homes: Mapping[str, Home] | None = None,
    keys: Collection[str] | None = None,
) -> list[Part]:
    """The tables, figures and texts of the page that puts models side by side; arguments as of ``write_comparison``.

    Only those of ``keys``, where these are given.
    """
    models = in_order(models)
    return COMPARISON.parts(ComparisonView.of(models, _by_display_name(models, homes), sweep), keys)


def _by_display_name(models: Sequence[ModelTables], homes: Mapping[str, Home] | None) -> dict[str, Home]:
    placed = [(homes or {}).get(name_of(model.about), Home()) for model in models]
    return dict(zip(display_names(models), placed, strict=True))
