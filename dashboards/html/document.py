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
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from erasure_sweep.dashboards.html.cards import (
    LAYER,
    Card,
    Column,
    Control,
    Markup,
    Part,
    Prose,
    Sorted,
    Table,
    chosen_key,
    escape,
    writers_of,
)
from erasure_sweep.dashboards.html.links import Home, link, numbers_line
from erasure_sweep.dashboards.plots.theme import ON_DARK, template
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.storage.whole_file import whole_file

__all__ = [
    "Card",
    "Column",
    "Control",
    "Home",
    "Markup",
    "Part",
    "Prose",
    "Sorted",
    "Table",
    "escape",
    "write_document",
]

MISSING = "—"
LEAST_FILTERED = 8
MOST_WHOLE = 25
"""Tables of up to so many rows are shown whole."""
_LONG_HEADING = 12
_SCRIPTS = ("looks.js", "save.js", "tables.js", "page.js", "edges.js")
_IMAGES = (("svg", "SVG"), ("png", "PNG"), ("csv", "CSV"))
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def write_document(
    path: Path,
    title: str,
    intro: str,
    parts: Sequence[Part],
    homes: Mapping[str, Home] | None = None,
    up: tuple[str, str] | None = None,
) -> None:
    """Write the page whole or not at all.

    ``intro`` is HTML between the heading and the first part; ``homes`` says by a model's name where its tables and run
    are; ``up`` is the href and words of a link above the title.
    """
    document = _document(title, intro, parts, homes or {}, up)
    with whole_file(path) as temporary:
        temporary.write_text(document, encoding="utf-8")


def _document(
    title: str, intro: str, parts: Sequence[Part], homes: Mapping[str, Home], up: tuple[str, str] | None
) -> str:
    body = "\n".join(_part(part, homes) for part in parts)
    above = f'<p class="up">{link(*up)}</p>\n' if up else ""
    themes: dict[str, Any] = {scheme: template(scheme).to_plotly_json() for scheme in ("light", "dark")}
    themes["onDark"] = ON_DARK
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
{above}<h1>{escape(title)}</h1>
{intro}
{_bar(parts)}<noscript><p class="notice">The figures need JavaScript; the tables do not.</p></noscript>
{body}
</main>
<script type="application/json" id="themes">{_inline(json.dumps(themes))}</script>
<script>{get_plotlyjs()}</script>
<script>
{"".join(_asset(name) for name in _SCRIPTS)}</script>
</body>
</html>
"""


def _bar(parts: Sequence[Part]) -> str:
    """What stays at the top of the screen: the list of parts, and where several offer a writer, one choice for all."""
    if len(parts) < 2:
        return ""
    offered = [writers for part in parts for control in _choices(part) if (writers := writers_of(control))]
    choice = ""
    if len(offered) > 1:
        named = dict.fromkeys(writer for writers in offered for writer in writers)
        options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in named)
        choice = (
            '<label hidden title="Sets every part of the page that offers this writer">Writer '
            f'<select id="page-writer" autocomplete="off"><option value="">each part\'s own</option>{options}</select>'
            '<output id="page-writer-note"></output></label>'
        )
    return (
        '<div class="bar"><nav aria-label="On this page"><details><summary>On this page</summary>'
        f"<ul>{_links(parts)}</ul></details></nav>{choice}</div>\n"
    )


def _links(parts: Sequence[Part]) -> str:
    """A link to each part, under the heading of its group where it has one."""
    listed = []
    for group, members in groupby(parts, lambda part: part.group):
        links = "".join(f'<li><a href="#{part.key}">{escape(part.title)}</a></li>' for part in members)
        listed.append(f'<li><span class="group">{escape(group)}</span><ul>{links}</ul></li>' if group else links)
    return "".join(listed)


def _choices(part: Part) -> list[Control]:
    """The controls of a part, those of its panels too."""
    if isinstance(part, Table):
        return []
    panels = part.panels if isinstance(part, Card) else ()
    return [*part.controls, *(panel for panel in panels if isinstance(panel, Control))]


@cache
def _asset(name: str) -> str:
    return (resources.files("erasure_sweep.dashboards.html") / "assets" / name).read_text(encoding="utf-8")


def _inline(text: str) -> str:
    # inside a script element only the end tag and comment openers can break out
    return text.replace("<", "\\u003c")


def _part(part: Part, homes: Mapping[str, Home]) -> str:
    if isinstance(part, Table):
        inside = _table(part) if part.rows else ""
    elif isinstance(part, Prose):
        inside = _bodies(part) if part.bodies else ""
    else:
        inside = _figures(part) if part.figures else ""
    # where there is nothing, there are no numbers to lead to
    shown = f"{inside}\n{numbers_line(part.tables, homes)}" if inside else f'<p class="note">{escape(part.empty)}</p>\n'
    return (
        f'<section class="card" id="{part.key}" aria-labelledby="{part.key}-title">\n'
        f'<h2 id="{part.key}-title">{escape(part.title)}</h2>\n{shown}</section>'
    )


def _bodies(prose: Prose) -> str:
    first = chosen_key(prose.controls)
    bodies = "".join(
        f'<div data-card="{prose.key}" data-body="{key}"{"" if key == first else " hidden"}>{body}</div>\n'
        for key, body in prose.bodies.items()
    )
    nothing = f'<p class="note" data-card="{prose.key}" data-body="" hidden>{escape(prose.empty)}</p>\n'
    said = f'<p class="caption">{escape(prose.caption)}</p>' if prose.caption else ""
    return f"{_controls(prose)}{bodies}{nothing}{said}"


def _figures(card: Card) -> str:
    plots = [_panel(card, index, panel) for index, panel in enumerate(card.panels)] or [_plot(card, card.controls)]
    shown = "".join(f'<div class="figure">{plot}</div>' for plot in plots)
    side_by_side = ' class="panels"' if card.panels else ""
    return (
        f'{_controls(card)}<figure aria-labelledby="{card.key}-title">\n<div{side_by_side}>{shown}</div>\n'
        f'<figcaption><p class="sentence" id="{card.key}-sentence" aria-live="polite"></p>'
        f'<p class="caption">{escape(card.caption)}</p></figcaption></figure>\n'
        f'<script type="application/json" id="{card.key}-figures">{_inline(_figures_json(card.figures))}</script>'
    )


def _panel(card: Card, index: int, panel: str | Control) -> str:
    data = f' data-panel="{index}"'
    if isinstance(panel, Control):
        plot = _plot(card, [*card.controls, panel], data)
        return f'<div class="controls">{_control(card.key, panel, data)}</div>{plot}'
    plot = _plot(card, [*card.controls, Control("", [], chosen=index)], f'{data} data-key="{index}"')
    return f"<h3>{escape(panel)}</h3>{plot}"


def _plot(card: Card, controls: Sequence[Control], data: str = "") -> str:
    """A place for the figure that the controls choose, as high as the one that they choose first."""
    first = card.figures[chosen_key(controls)]
    width = f"min-width:{card.min_width}px;" if card.min_width else ""
    # what can be scrolled must be within reach of the keyboard
    reached = f' tabindex="0" role="region" aria-labelledby="{card.key}-title"' if width else ""
    buttons = "".join(f'<button type="button" data-save="{kind}">{name}</button>' for kind, name in _IMAGES)
    return (
        f'<div class="edges"><div class="scroll"{reached}><div class="plot" role="group" '
        f'aria-labelledby="{card.key}-title {card.key}-sentence" data-card="{card.key}"{data} '
        f'style="{width}height:{first.layout.height}px"></div></div></div>'
        f'<div class="downloads" role="group" aria-label="Download what is shown">{buttons}</div>'
    )


def _figures_json(figures: dict[str, go.Figure]) -> str:
    parts = []
    for key, figure in figures.items():
        # the page holds both templates once; a copy in every figure would be most of its size
        bare = go.Figure(figure)
        bare.layout.template = None
        parts.append(f"{json.dumps(key)}:{bare.to_json(validate=False)}")
    return "{" + ",".join(parts) + "}"


def _controls(part: Card | Prose) -> str:
    parts = [_control(part.key, control) for control in part.controls]
    return f'<div class="controls">{"".join(parts)}</div>\n' if parts else ""


def _control(key: str, control: Control, data: str = "") -> str:
    if control.kind == "range":
        steps = escape(json.dumps(list(control.options)))
        slider = f'<input type="range" min="0" max="{len(control.options) - 1}" step="1" value="{control.chosen}"'
        follows = " data-layers" if control.label == LAYER else ""
        named = f'{slider} data-control="{key}"{data}{follows} data-steps="{steps}" autocomplete="off">'
        said = escape(control.options[control.chosen])
        return f"<label>{escape(control.label)} {named}<output>{said}</output></label>"
    options = "".join(
        f'<option value="{index}"{" selected" if index == control.chosen else ""}>{escape(name)}</option>'
        for index, name in enumerate(control.options)
    )
    follows = " data-writers" if writers_of(control) else ""
    select = f'<select data-control="{key}"{data}{follows} autocomplete="off">{options}</select>'
    return f"<label>{escape(control.label)} {select}</label>"


def _table(table: Table) -> str:
    heads = "".join(_heading(column) for column in table.columns)
    rows = "\n".join(_row(table.columns, row) for row in table.rows)
    filter_box = _filter(table) if len(table.rows) >= LEAST_FILTERED else ""
    whole = " whole" if len(table.rows) <= MOST_WHOLE else ""
    save = (
        '<div class="downloads" role="group" aria-label="Download what is shown">'
        f'<button type="button" data-save-table="{table.key}-table">CSV</button></div>'
    )
    return (
        f'{filter_box}<div class="edges"><div class="table{whole}" tabindex="0" role="region" '
        f'aria-labelledby="{table.key}-title"><table id="{table.key}-table"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div></div>\n{save}"
        f'<p class="caption">{escape(table.caption)}</p>'
    )


def _filter(table: Table) -> str:
    return (
        f'<div class="controls"><label>Filter by {escape(table.filter_by)} '
        f'<input type="search" data-filter="{table.key}-table"></label>'
        f"<output data-count>{len(table.rows)} rows</output></div>"
    )


def _heading(column: Column) -> str:
    kind = ' class="number"' if column.is_number else ""
    title = f' title="{escape(column.title)}"' if column.title else ""
    # wide enough that it takes no more than two or three lines
    letters = len(column.heading)
    width = f' style="min-width:{letters // 2 + 4}ch"' if letters > _LONG_HEADING else ""
    return (
        f'<th scope="col" aria-sort="none"{kind}>'
        f'<button type="button"{title}{width}>{escape(column.heading)}</button></th>'
    )


def _row(columns: Sequence[Column], row: Sequence[Any]) -> str:
    first, value = _sorted(row[0])
    cells = [_cell(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True)]
    return f'<tr><th scope="row"{value}>{escape(first)}</th>{"".join(cells)}</tr>'


def _cell(column: Column, cell: Any) -> str:
    kind = "number" if column.is_number else column.width
    filtered = "" if column.is_number or not column.filtered else " data-filtered"
    if isinstance(cell, Sorted) or not column.is_number:
        shown, value = _sorted(cell)
        return f'<td class="{kind}"{filtered}{value}>{escape(MISSING if shown is None else shown)}</td>'
    measured = float("nan") if cell is None else float(cell)
    shown = MISSING
    if np.isfinite(measured):
        shown = f"{measured:,.0f}" if isinstance(cell, int) else number(measured, 3)
    return f'<td class="number"{_value(measured)}>{shown}</td>'


def _sorted(cell: Any) -> tuple[Any, str]:
    """What a cell of text shows, and the attribute by which it is sorted; none where that is what it shows."""
    return (cell.markup, _value(cell.value)) if isinstance(cell, Sorted) else (cell, "")


def _value(measured: float) -> str:
    return f' data-value="{measured!r}"' if np.isfinite(measured) else ' data-value=""'
