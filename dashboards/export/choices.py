"""Which figures are exported, as which choices show them, and where each file goes.

A figure goes by its key: that of its card on a model's page, or ``compare:`` and its key on the page that puts models side
by side. Both are the pages' own parts, so a file shows what the page shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.export.images import Format, Image, write_images
from erasure_sweep.dashboards.html.parts import ARROW, Card, Control, Part, writers_of
from erasure_sweep.dashboards.pages import comparison_page_parts, model_parts
from erasure_sweep.workers.errors import UsageError, nearest
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.sweep_folder import ModelTables

COMPARE = "compare:"
"""How the keys of figures of the comparison begin."""

PANEL = "Panel"
"""What chooses among panels that stand side by side under names of their own."""

WIDTH = 700
"""Of a figure in pixels, unless it needs more: seven inches, the text's width on a page."""

_PNG_SCALE = 3.0
"""288 pixels to the inch."""


class FinishedModels(NamedTuple):
    """The models whose figures can be exported.

    Attributes:
        models: under names that tell them apart.
        sweep: one manifest for all.
        folders: by a model's name, where its figures go, below the root; under ``""`` those of the comparison.
    """

    models: list[ModelTables]
    sweep: Manifest | None
    folders: Mapping[str, Path]


class ExportRequest(NamedTuple):
    """Which figures are asked for; of nothing all."""

    figures: Sequence[str] = ()
    models: Sequence[str] = ()
    writers: Sequence[str] = ()
    choices: Sequence[tuple[str, str]] = ()
    """Labels of controls with one of their options each."""


class Drawing(NamedTuple):
    """One figure of a card, and what was chosen for it other than what its page starts with."""

    card: Card
    figure: go.Figure
    chosen: tuple[str, ...]


class Offer(NamedTuple):
    """A figure that can be exported: its key, title, and each choice with its options."""

    key: str
    title: str
    choices: dict[str, list[str]]


class _PageFigures(NamedTuple):
    """A page's cards with figures; ``folder`` is where their files go, below the root."""

    prefix: str
    folder: Path
    cards: list[Card]


def offers(finished: FinishedModels, asked: ExportRequest) -> list[Offer]:
    """What can be exported: of the first model asked for, as others offer the same, and of the comparison.

    Raises:
        UsageError: no model is of a name that is asked for.
    """
    pages = [*(_model_page(finished, model) for model in _models(finished, asked)[:1]), _comparison(finished)]
    return [
        Offer(page.prefix + card.key, card.title, {control.label: list(control.options) for control in _controls(card)})
        for page in pages
        for card in page.cards
    ]


def export(
    finished: FinishedModels,
    asked: ExportRequest,
    root: Path,
    wrote: Callable[[Path], object],
    *,
    form: Format = "svg",
    width: int | None = None,
    scale: float | None = None,
) -> None:
    """Write figures of finished sweeps as image files.

    Args:
        root: folder that the files go below.
        wrote: hears of each file.
        width: of each figure, in pixels.
        scale: of the image; by default 3 for ``png``, else 1.

    Raises:
        UsageError: no figure, model, writer or choice is of a name that is asked for.
        SweepError: kaleido or a browser is absent or fails, or a file cannot be written.
    """
    images = _images(_pages(finished, asked), asked, root, form, width)
    write_images(images, form, scale or (_PNG_SCALE if form == "png" else 1.0), wrote)


def _pages(finished: FinishedModels, asked: ExportRequest) -> list[_PageFigures]:
    """The pages that hold what is asked for, and no others: a page is slow to draw."""
    models = _models(finished, asked)
    of_comparison = [key for key in asked.figures if key.startswith(COMPARE)]
    pages = []
    if not asked.figures or len(of_comparison) < len(asked.figures):
        pages += [_model_page(finished, model) for model in models]
    if of_comparison or not (asked.figures or asked.models):
        pages.append(_comparison(finished))
    return pages


def _models(finished: FinishedModels, asked: ExportRequest) -> list[ModelTables]:
    """The models asked for, all if none is."""
    models = {model.about.name: model for model in finished.models}
    for name in asked.models:
        if name not in models:
            raise UsageError(f"no finished model {name!r}: {nearest(name, models)}")
    return [models[name] for name in dict.fromkeys(asked.models)] or finished.models


def _model_page(finished: FinishedModels, model: ModelTables) -> _PageFigures:
    return _PageFigures("", finished.folders[model.about.name], _with_figures(model_parts(model)))


def _comparison(finished: FinishedModels) -> _PageFigures:
    parts = comparison_page_parts(finished.models, finished.sweep)
    return _PageFigures(COMPARE, finished.folders[""], _with_figures(parts))


def _with_figures(parts: Sequence[Part]) -> list[Card]:
    return [part for part in parts if isinstance(part, Card) and part.figures]


def _images(
    pages: Sequence[_PageFigures], asked: ExportRequest, root: Path, form: Format, width: int | None
) -> list[Image]:
    _check(pages, asked)
    images: dict[Path, Image] = {}
    drawn = set()
    for page in pages:
        for card in page.cards:
            key = page.prefix + card.key
            if asked.figures and key not in asked.figures:
                continue
            for drawing in drawings(card, asked):
                path = _free(root / page.folder, _stem(drawing), form, images)
                height = drawing.figure.layout.height or WIDTH
                images[path] = Image(drawing.figure, path, width or max(WIDTH, card.min_width), int(height))
                drawn.add(key)
    missing = [key for key in asked.figures if key not in drawn]
    if missing or not images:
        subject = f"figure {missing[0]!r} has" if missing else "no figure has"
        raise UsageError(f"{subject} no such choice together: `erasure-sweep export --list` shows what each offers")
    return list(images.values())


def _check(pages: Sequence[_PageFigures], asked: ExportRequest) -> None:
    """See that each name that is asked for is one, before anything is drawn."""
    keys = {page.prefix + card.key: card for page in pages for card in page.cards}
    for key in asked.figures:
        if key not in keys:
            raise UsageError(f"no figure {key!r} in these sweeps: {nearest(key, keys)}")
    cards = [
        card for page in pages for card in page.cards if not asked.figures or page.prefix + card.key in asked.figures
    ]
    controls = [control for card in cards for control in _controls(card)]
    writers = {writer for control in controls for writer in writers_of(control)}
    for writer in asked.writers:
        if writer not in writers:
            raise UsageError(f"no figure of a writer {writer!r} here: {nearest(writer, writers)}")
    for label, option in asked.choices:
        _check_choice(label, option, controls)


def _check_choice(label: str, option: str, controls: Sequence[Control]) -> None:
    labels = {control.label for control in controls}
    options = {offered for control in controls if _same(control.label, label) for offered in control.options}
    if not options:
        raise UsageError(f"no choice {label!r} here: {nearest(label, labels)}")
    if not any(_same(offered, option) for offered in options):
        raise UsageError(f"{label} has no {option!r}: {nearest(option, options)}")


def drawings(card: Card, asked: ExportRequest) -> list[Drawing]:
    """A card's figures as they are asked for, panel by panel; none where it does not offer what is chosen."""
    controls = _controls(card)
    writers: list[str | None] = [*dict.fromkeys(asked.writers)] or [None]
    found = [_chosen(controls, start, writer, asked.choices) for writer in writers for start in _starts(card)]
    return [_drawing(card, controls, at) for at in dict.fromkeys(found) if at is not None]


def _controls(card: Card) -> list[Control]:
    """The card's choices; the last one is among its panels, if it has any."""
    named = [panel for panel in card.panels if isinstance(panel, str)]
    offered = [panel for panel in card.panels if isinstance(panel, Control)][:1]
    return [*card.controls, *offered, *([Control(PANEL, named)] if named else [])]


def _starts(card: Card) -> list[list[int]]:
    """For each panel, or the whole card, the option that each choice starts with."""
    common = [control.chosen for control in card.controls]
    panels = [panel.chosen if isinstance(panel, Control) else at for at, panel in enumerate(card.panels)]
    return [[*common, at] for at in panels] or [common]


def _chosen(
    controls: Sequence[Control], start: list[int], writer: str | None, choices: Sequence[tuple[str, str]]
) -> tuple[int, ...] | None:
    """The option of each choice, ``None`` where something that is asked for is not among them."""
    at = dict(enumerate(start))
    asked = [[_index_of_choice(control, *choice) for control in controls] for choice in choices]
    asked += [[_index_of_writer(control, writer) for control in controls]] if writer is not None else []
    for options in asked:
        found = {place: index for place, index in enumerate(options) if index is not None}
        if not found:
            return None
        at |= found
    return tuple(at.values())


def _drawing(card: Card, controls: Sequence[Control], at: Sequence[int]) -> Drawing:
    several = len(card.panels) > 1
    names = [
        control.options[index]
        for place, (control, index) in enumerate(zip(controls, at, strict=True))
        if index != control.chosen or (several and place == len(card.controls))
    ]
    return Drawing(card, card.figures[".".join(map(str, at)) or "0"], tuple(names))


def _index_of_writer(control: Control, writer: str) -> int | None:
    """Where a control names the writer, alone or with its erasers."""
    named = [option.partition(ARROW)[0] for option in control.options]
    return named.index(writer) if writer in writers_of(control) else None


def _index_of_choice(control: Control, label: str, option: str) -> int | None:
    """Where the control of this label has the option."""
    offered = control.options if _same(control.label, label) else ()
    return next((at for at, one in enumerate(offered) if _same(one, option)), None)


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


def _stem(drawing: Drawing) -> str:
    """The card's key, and what was chosen."""
    parts = [re.sub(r"[^A-Za-z0-9._@-]+", "_", name).strip("_.") for name in drawing.chosen]
    return "-".join([drawing.card.key, *(part for part in parts if part)])


def _free(folder: Path, stem: str, form: Format, taken: dict[Path, Image]) -> Path:
    """A name that no other of these files has: two choices may be alike in plain letters."""
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.{form}" for number in range(1, len(taken) + 2))
    return next(path for name in names if (path := folder / name) not in taken)
