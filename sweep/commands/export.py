"""``erasure-sweep export``: figures of finished sweeps as image files for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erasure_sweep.sweep.commands.compare import finished_folders, finished_sweeps
from erasure_sweep.sweep.commands.options import FigureChoice, debug_option

if TYPE_CHECKING:
    from rich.table import Table

    from erasure_sweep.dashboards.export.choices import FinishedModels, Offer
    from erasure_sweep.sweep.finishing.combine_sweeps import ComparedModels
    from erasure_sweep.sweep.terminal.printed_table import Kind

_OFFERED = 6
"""How many options of a choice are listed."""


@click.command()
@finished_sweeps
@click.option("--figure", "figures", multiple=True, metavar="KEY", help="A figure, as --list names it; again for more.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model; again for more. By default all.")
@click.option("--writer", "writers", multiple=True, metavar="L0H2", help="Figures of this writer; again for more.")
@click.option("--choose", "choices", multiple=True, type=FigureChoice(), help="Figures as this choice shows them.")
@click.option("--format", "form", type=click.Choice(["svg", "png", "pdf"]), default="svg", show_default=True)
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write below; by default OUT.")
@click.option("--width", type=click.IntRange(100, 10_000), metavar="PX", help="Width of each figure in pixels.")
@click.option(
    "--scale", type=click.FloatRange(0.1, 20), metavar="N", help="Of the image; by default 3 for png, else 1."
)
@click.option("--list", "only_list", is_flag=True, help="Print figures and their choices; write nothing.")
@debug_option
def export(
    folders: tuple[Path, ...],
    experiments: tuple[str, ...],
    tracking_uri: str | None,
    figures: tuple[str, ...],
    models: tuple[str, ...],
    writers: tuple[str, ...],
    choices: tuple[tuple[str, str], ...],
    only_list: bool,
    debug: bool,
    to: Path | None,
    **image: Any,
) -> None:
    """Write figures of finished sweeps as image files for papers."""
    from erasure_sweep.dashboards.export import choices as exporting
    from erasure_sweep.sweep.finishing.combine_sweeps import gather
    from erasure_sweep.sweep.terminal.printing import console, print_line
    from erasure_sweep.workers.errors import UsageError

    if experiments and to is None and not only_list:
        raise UsageError("of an experiment say where the files go: --to DIR")
    asked = exporting.ExportRequest(figures, models, writers, choices)
    with finished_folders(folders, experiments, tracking_uri) as all_folders:
        root = to or (all_folders[0] if len(all_folders) == 1 else None)
        if root is None and not only_list:
            raise UsageError("of several sweeps say where the files go: --to DIR")
        compared = gather(all_folders, root or Path())
        finished = _finished_models(compared, single=len(all_folders) == 1)
        if root is None or only_list:
            console.print(_offers_table(exporting.offers(finished, asked)))
            return
        exporting.export(finished, asked, root, lambda path: print_line(f"wrote {path}"), **image)
        for line in compared.left_out:
            print_line(line)


def _finished_models(compared: ComparedModels, *, single: bool) -> FinishedModels:
    """The models, and where their figures go; a single sweep's models have their folders already."""
    from erasure_sweep.dashboards.export.choices import FinishedModels
    from erasure_sweep.sweep.run_folder import FIGURES, folder_names

    names = [model.about.name for model in compared.models]
    own = {model.about.name: model.about.folder for model in compared.models}
    folders = own if single else folder_names(names, {})
    places = {"": Path(FIGURES), **{name: Path(folders[name], FIGURES) for name in names}}
    return FinishedModels(compared.models, compared.sweep, places)


def _offers_table(offers: Sequence[Offer]) -> Table:
    from rich.markup import escape

    from erasure_sweep.sweep.terminal.printed_table import printed_table

    columns: dict[str, Kind] = {"--figure": "name", "what it shows": "text", "--choose": "text"}
    table = printed_table("Figures that `export` writes", columns)
    for offer in offers:
        choices = [
            f"{label}={' | '.join(options[:_OFFERED])}{' | …' if len(options) > _OFFERED else ''}"
            for label, options in offer.choices.items()
        ]
        table.add_row(escape(offer.key), escape(offer.title), escape("\n".join(choices)))
    return table
