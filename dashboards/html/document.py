"""One HTML document from its parts: everything inline, plotly.js once, nothing fetched.

A card is a title, one figure or several, and what they show in words. Where one card offers a choice (a writer, a
layer), it holds a figure per choice, keyed by the controls' option numbers joined with dots; ``assets/page.js`` draws
the chosen one when it comes into view. Panels stand side by side: each has a choice of its own, or always shows what
its place in the row says, and follows the card's common controls; a panel's own number is the last of its key. A
content security policy forbids every request, and every string from data is escaped.

Controls that choose a writer follow the page's own choice of one, which stands in the address as ``#writer=L0H2`` so
that other pages can lead to it. What is shown can be saved: figures as SVG, PNG and CSV, tables as CSV.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import (
    Card,
    Control,
    HtmlColumn,
    HtmlTable,
    Part,
    Prose,
    SortedCell,
    writers_of,
)
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.plots.theme import ON_DARK, template
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.storage.whole_file import whole_file

MISSING = "—"
LEAST_FILTERED = 8
MOST_WHOLE = 25
"""Tables of up to so many rows are shown whole."""
_SCRIPTS = ("looks.js", "save.js", "tables.js", "page.js", "edges.js")


def write_document(
    path: Path,
    title: str,
    intro: str,
    parts: Sequence[Part],
    homes: Mapping[str, Home] | None = None,
    up: tuple[str, str] | None = None,
) -> None:
    """Write the page whole or not at all.

    ``intro`` is text or ``Markup`` between the heading and the first part; ``homes`` says by a model's name where its
    tables and run are; ``up`` is the href and words of a link above the title.
    """
    document = render_document(title, intro, parts, homes, up)
    with whole_file(path) as temporary:
        temporary.write_text(document, encoding="utf-8")


def render_document(
    title: str,
    intro: str,
    parts: Sequence[Part],
    homes: Mapping[str, Home] | None = None,
    up: tuple[str, str] | None = None,
) -> Markup:
    """The page that ``write_document`` writes."""
    return render(
        "page.html.j2",
        title=title,
        intro=intro,
        up=up,
        parts=parts,
        groups=[(group, list(members)) for group, members in groupby(parts, lambda part: part.group)],
        writers=_offered_by_several(parts),
        body=Markup("\n").join(_part(part, homes or {}) for part in parts),
        themes=_themes(),
        plotly=Markup(get_plotlyjs()),
        scripts=_SCRIPTS,
    )


def _offered_by_several(parts: Sequence[Part]) -> list[str]:
    """The writers that parts offer, where two or more of them offer any: then the page has one choice for all."""
    offered = [writers for part in parts for control in _choices(part) if (writers := writers_of(control))]
    return list(dict.fromkeys(writer for writers in offered for writer in writers)) if len(offered) > 1 else []


def _choices(part: Part) -> list[Control]:
    """The controls of a part, those of its panels too."""
    if isinstance(part, HtmlTable):
        return []
    panels = part.panels if isinstance(part, Card) else ()
    return [*part.controls, *(panel for panel in panels if isinstance(panel, Control))]


def _part(part: Part, homes: Mapping[str, Home]) -> Markup:
    # what is empty has no numbers to lead to
    numbers = render("numbers.html.j2", tables=part.tables, homes=homes) if part.tables else ""
    if isinstance(part, HtmlTable):
        return render(
            "table.html.j2",
            part=part,
            numbers=numbers,
            rows=[_row(part.columns, row) for row in part.rows],
            filtered=len(part.rows) >= LEAST_FILTERED,
            whole=len(part.rows) <= MOST_WHOLE,
        )
    if isinstance(part, Prose):
        return render("prose.html.j2", part=part, numbers=numbers)
    return render("figures.html.j2", part=part, numbers=numbers, figures=_figures_json(part.figures))


@cache
def _themes() -> Markup:
    themes: dict[str, Any] = {scheme: template(scheme).to_plotly_json() for scheme in ("light", "dark")}
    return _for_script(json.dumps({**themes, "onDark": ON_DARK}))


def _figures_json(figures: dict[str, go.Figure]) -> Markup:
    entries = []
    for key, figure in figures.items():
        # the page holds both templates once; a copy in every figure would be most of its size
        bare = figure.to_dict()
        bare["layout"].pop("template", None)
        entries.append(f"{json.dumps(key)}:{to_json_plotly(bare)}")
    return _for_script("{" + ",".join(entries) + "}")


def _for_script(text: str) -> Markup:
    """JSON for a script element, which its end tag and comment openers alone could end."""
    return Markup(text.replace("<", "\\u003c"))


class _Cell(NamedTuple):
    """What a cell of a table shows, its class, and attributes by which it is filtered and sorted."""

    text: object
    kind: str = ""
    data: Markup = Markup("")


def _row(columns: Sequence[HtmlColumn], row: Sequence[Any]) -> list[_Cell]:
    first = row[0]
    heading = _Cell(first.markup, data=_value(first.value)) if isinstance(first, SortedCell) else _Cell(first)
    return [heading, *(_cell(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True))]


def _cell(column: HtmlColumn, cell: Any) -> _Cell:
    kind = "number" if column.is_number else column.width
    filtered = Markup("" if column.is_number or not column.filtered else " data-filtered")
    if isinstance(cell, SortedCell):
        return _Cell(cell.markup, kind, filtered + _value(cell.value))
    if not column.is_number:
        return _Cell(MISSING if cell is None else cell, kind, filtered)
    measured = float("nan") if cell is None else float(cell)
    shown = MISSING
    if np.isfinite(measured):
        shown = f"{measured:,.0f}" if isinstance(cell, int) else number(measured, 3)
    return _Cell(shown, kind, _value(measured))


def _value(measured: float) -> Markup:
    return Markup(' data-value="{}"').format(repr(measured) if np.isfinite(measured) else "")
