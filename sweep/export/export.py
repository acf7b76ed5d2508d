"""Figures of finished sweeps as image files: which ones, as which choices show them, and where each file goes.

A figure goes by its key: that of its card on a model's page, or ``compare:`` and its key on the page that puts models side
by side. Both are the pages' own parts, so a file shows what the page shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import ARROW, Card, Control, Part, writers_of
from erasure_sweep.dashboards.model_tables import ModelTables, folder_of
from erasure_sweep.dashboards.pages import comparison_page_parts, model_parts
from erasure_sweep.sweep.comparison import Compared, gather
from erasure_sweep.sweep.export.images import Format, Image, write_images
from erasure_sweep.sweep.run_folder import FIGURES, folder_names
from erasure_sweep.workers.errors import UsageError, nearest

COMPARE = "compare:"
"""How the keys of figures of the comparison begin."""

PANEL = "Panel"
"""What chooses among panels that stand side by side under names of their own."""

WIDTH = 700
"""Of a figure in pixels, unless it needs more: seven inches, the text's width on a page."""

_PNG_SCALE = 3.0
"""288 pixels to the inch."""


class Asked(NamedTuple):
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


class _Page(NamedTuple):
    """A page's cards with figures; ``folder`` is where their files go, below the root."""

    prefix: str
    folder: Path
    cards: list[Card]


def offers(folders: list[Path], asked: Asked) -> list[Offer]:
    """What can be exported: of the first model asked for, as others offer the same, and of the comparison.

    Raises:
        UsageError, DataError: as of ``export``.
    """
    compared = gather(folders, Path())
    first = _named(compared, asked.models)[:1]
    pages = [*_model_pages(compared, first, single=False), _comparison(compared)]
    return [
        Offer(page.prefix + card.key, card.title, {one.label: list(one.options) for one in _controls(card)})
        for page in pages
        for card in page.cards
    ]


def export(
    folders: list[Path],
    asked: Asked,
    to: Path | None,
    wrote: Callable[[Path], object],
    *,
    form: Format = "svg",
    width: int | None = None,
    scale: float | None = None,
) -> list[str]:
    """Write figures of finished sweeps as image files.

    Args:
        folders: of the sweeps.
        to: folder that the files go below; by default the sweep's own, where there is one.
        wrote: hears of each file.
        width: of each figure, in pixels.
        scale: of the image; by default 3 for ``png``, else 1.

    Returns:
        Lines on models that were left out, because they are of another schema.

    Raises:
        UsageError: a folder holds no sweep, or no figure, model, writer or choice is of that name.
        DataError: a manifest or a table is damaged, or of another schema.
        SweepError: kaleido or a browser is absent or fails, or a file cannot be written.
    """
    root = to or (folders[0] if len(folders) == 1 else None)
    if root is None:
        raise UsageError("of several sweeps say where the files go: --to DIR")
    compared = gather(folders, root)
    images = _images(_pages(compared, asked, single=len(folders) == 1), asked, root, form, width)
    write_images(images, form, scale or (_PNG_SCALE if form == "png" else 1.0), wrote)
    return compared.left_out


def _pages(compared: Compared, asked: Asked, *, single: bool) -> list[_Page]:
    """The pages that hold what is asked for, and no others: a page is slow to draw."""
    models = _named(compared, asked.models)
    of_comparison = [key for key in asked.figures if key.startswith(COMPARE)]
    pages = []
    if not asked.figures or len(of_comparison) < len(asked.figures):
        pages += _model_pages(compared, models, single=single)
    if of_comparison or not (asked.figures or asked.models):
        pages.append(_comparison(compared))
    return pages


def _named(compared: Compared, names: Sequence[str]) -> list[ModelTables]:
    models = {model.about["name"]: model for model in compared.models}
    for name in names:
        if name not in models:
            raise UsageError(f"no finished model {name!r}: {nearest(name, models)}")
    return [models[name] for name in dict.fromkeys(names)] or compared.models


def _model_pages(compared: Compared, models: Sequence[ModelTables], *, single: bool) -> list[_Page]:
    """The models' own pages; a single sweep's models have their folders already."""
    names = [model.about["name"] for model in compared.models]
    folders = {model.about["name"]: folder_of(model.about) for model in models} if single else folder_names(names, {})
    return [_Page("", Path(folders[model.about["name"]], FIGURES), _drawn(model_parts(model))) for model in models]


def _comparison(compared: Compared) -> _Page:
    return _Page(COMPARE, Path(FIGURES), _drawn(comparison_page_parts(compared.models, compared.sweep)))


def _drawn(parts: Iterable[Part]) -> list[Card]:
    return [part for part in parts if isinstance(part, Card) and part.figures]


def _images(pages: Sequence[_Page], asked: Asked, root: Path, form: Format, width: int | None) -> list[Image]:
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
        said = f"figure {missing[0]!r} has" if missing else "no figure has"
        raise UsageError(f"{said} no such choice together: `erasure-sweep export --list` shows what each offers")
    return list(images.values())


def _check(pages: Sequence[_Page], asked: Asked) -> None:
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
    found = {one for control in controls if _same(control.label, label) for one in control.options}
    if not found:
        raise UsageError(f"no choice {label!r} here: {nearest(label, labels)}")
    if not any(_same(one, option) for one in found):
        raise UsageError(f"{label} has no {option!r}: {nearest(option, found)}")


def drawings(card: Card, asked: Asked) -> list[Drawing]:
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
