"""One HTML document from cards: everything inline, plotly.js once, nothing fetched.

A card is a title, one figure or several, and what they show in words. Where one card offers a choice (a writer, a
layer), it holds a figure per choice, keyed by the controls' option numbers joined with dots; ``assets/page.js`` draws
the chosen one when it comes into view. Panels stand side by side: each has a choice of its own, or always shows what
its place in the row says, and follows the card's common controls; a panel's own number is the last of its key. A
content security policy forbids every request, and every string from data is escaped.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.style import template
from dashboards.wording import number

MISSING = "—"
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


class Control(NamedTuple):
    """A choice above a figure: a drop-down list, or a slider over named steps; ``chosen`` is where it starts."""

    label: str
    options: Sequence[str]
    kind: Literal["select", "range"] = "select"
    chosen: int = 0


@dataclass(frozen=True)
class Card:
    """One figure, or one per choice; ``empty`` is said where there is none.

    ``panels`` stand side by side: a name has the figures of its place in the row, a ``Control`` those that it chooses.
    """

    key: str
    title: str
    caption: str
    figures: dict[str, go.Figure]
    controls: Sequence[Control] = ()
    panels: Sequence[str | Control] = ()
    min_width: int = 0
    empty: str = "The tables hold nothing to draw here."


class Column(NamedTuple):
    """A table's column: its heading, what explains it, and whether it holds numbers.

    ``filtered``: the table's filter looks into it as well as into the first column. ``width``: how long its strings are;
    narrow ones stay in one line.
    """

    heading: str
    title: str = ""
    is_number: bool = False
    filtered: bool = False
    width: Literal["narrow", "wide", "broad"] = "wide"


@dataclass(frozen=True)
class Table:
    """A sortable table; a cell is a number (NaN where missing), a string, or ready ``Markup``.

    ``filter_by``: what a long table's filter looks for.
    """

    key: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    empty: str = "The tables hold no rows to show here."
    filter_by: str = "name"


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def escape(value: object) -> str:
    """A string from data, safe in HTML text and attributes; ``Markup`` as it is."""
    return value if isinstance(value, Markup) else html.escape(str(value))


def write_document(path: Path, title: str, intro: str, parts: Sequence[Card | Table]) -> None:
    """Write the page under a temporary name, then rename it: a half-written page is never taken for one.

    ``intro`` is HTML between the heading and the first part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(_document(title, intro, parts), encoding="utf-8")
        temporary.replace(path)
    finally:
        # gone already where it was renamed
        temporary.unlink(missing_ok=True)


def _document(title: str, intro: str, parts: Sequence[Card | Table]) -> str:
    links = "".join(f'<li><a href="#{part.key}">{escape(part.title)}</a></li>' for part in parts)
    body = "\n".join(_card(part) if isinstance(part, Card) else _table(part) for part in parts)
    themes = {scheme: template(scheme).to_plotly_json() for scheme in ("light", "dark")}
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
<h1>{escape(title)}</h1>
{intro}
<nav aria-label="On this page"><ul>{links}</ul></nav>
<noscript><p class="notice">The figures need JavaScript; the tables do not.</p></noscript>
{body}
</main>
<script type="application/json" id="themes">{_inline(json.dumps(themes))}</script>
<script>{get_plotlyjs()}</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


@cache
def _asset(name: str) -> str:
    return (resources.files("dashboards") / "assets" / name).read_text(encoding="utf-8")


def _inline(text: str) -> str:
    # inside a script element only the end tag and comment openers can break out
    return text.replace("<", "\\u003c")


def _card(card: Card) -> str:
    inside = _figures(card) if card.figures else f'<p class="note">{escape(card.empty)}</p>'
    return (
        f'<section class="card" id="{card.key}" aria-labelledby="{card.key}-title">\n'
        f'<h2 id="{card.key}-title">{escape(card.title)}</h2>\n{inside}\n</section>'
    )


def _figures(card: Card) -> str:
    plots = [_panel(card, index, panel) for index, panel in enumerate(card.panels)] or [_plot(card, card.controls)]
    wrapper = "panels" if card.panels else "scroll"
    return (
        f'{_controls(card)}<figure>\n<div class="{wrapper}">{"".join(plots)}</div>\n'
        f'<figcaption><p class="sentence" id="{card.key}-sentence" aria-live="polite"></p>'
        f'<p class="caption">{escape(card.caption)}</p></figcaption></figure>\n'
        f'<script type="application/json" id="{card.key}-figures">{_inline(_figures_json(card.figures))}</script>'
    )


def _panel(card: Card, index: int, panel: str | Control) -> str:
    data = f' data-panel="{index}"'
    if isinstance(panel, Control):
        plot = _plot(card, [*card.controls, panel], data)
        return f'<div><div class="controls">{_control(card.key, panel, data)}</div>{plot}</div>'
    plot = _plot(card, [*card.controls, Control("", [], chosen=index)], f'{data} data-key="{index}"')
    return f"<div><h3>{escape(panel)}</h3>{plot}</div>"


def _plot(card: Card, controls: Sequence[Control], data: str = "") -> str:
    """A place for the figure that the controls choose, as high as the one that they choose first."""
    first = card.figures[".".join(str(control.chosen) for control in controls) or "0"]
    width = f"min-width:{card.min_width}px;" if card.min_width else ""
    return f'<div class="plot" data-card="{card.key}"{data} style="{width}height:{first.layout.height}px"></div>'


def _figures_json(figures: dict[str, go.Figure]) -> str:
    parts = []
    for key, figure in figures.items():
        # the page holds both templates once; a copy in every figure would be most of its size
        bare = go.Figure(figure)
        bare.layout.template = None
        parts.append(f"{json.dumps(key)}:{bare.to_json(validate=False)}")
    return "{" + ",".join(parts) + "}"


def _controls(card: Card) -> str:
    parts = [_control(card.key, control) for control in card.controls]
    return f'<div class="controls">{"".join(parts)}</div>\n' if parts else ""


def _control(key: str, control: Control, data: str = "") -> str:
    if control.kind == "range":
        steps = escape(json.dumps(list(control.options)))
        slider = f'<input type="range" min="0" max="{len(control.options) - 1}" step="1" value="{control.chosen}"'
        named = f'{slider} data-control="{key}"{data} data-steps="{steps}" autocomplete="off">'
        said = escape(control.options[control.chosen])
        return f"<label>{escape(control.label)} {named}<output>{said}</output></label>"
    options = "".join(
        f'<option value="{index}"{" selected" if index == control.chosen else ""}>{escape(name)}</option>'
        for index, name in enumerate(control.options)
    )
    select = f'<select data-control="{key}"{data} autocomplete="off">{options}</select>'
    return f"<label>{escape(control.label)} {select}</label>"


def _table(table: Table) -> str:
    heads = "".join(_heading(column) for column in table.columns)
    rows = "\n".join(_row(table.columns, row) for row in table.rows)
    filter_box = (
        f'<div class="controls"><label>Filter by {escape(table.filter_by)} '
        f'<input type="search" data-filter="{table.key}-table"></label></div>'
        if len(table.rows) > 20
        else ""
    )
    inside = (
        f'{filter_box}<div class="table" tabindex="0" role="region" aria-labelledby="{table.key}-title">'
        f'<table id="{table.key}-table"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n'
        f'<p class="caption">{escape(table.caption)}</p>'
    )
    if not table.rows:
        inside = f'<p class="note">{escape(table.empty)}</p>'
    return (
        f'<section class="card" id="{table.key}">\n<h2 id="{table.key}-title">{escape(table.title)}</h2>\n'
        f"{inside}\n</section>"
    )


def _heading(column: Column) -> str:
    kind = ' class="number"' if column.is_number else ""
    title = f' title="{escape(column.title)}"' if column.title else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button"{title}>{escape(column.heading)}</button></th>'


def _row(columns: Sequence[Column], row: Sequence[Any]) -> str:
    cells = [_cell(column, value) for column, value in zip(columns[1:], row[1:], strict=True)]
    return f'<tr><th scope="row">{escape(row[0])}</th>{"".join(cells)}</tr>'


def _cell(column: Column, value: Any) -> str:
    if not column.is_number:
        filtered = " data-filtered" if column.filtered else ""
        return f'<td class="{column.width}"{filtered}>{escape(MISSING if value is None else value)}</td>'
    measured = float("nan") if value is None else float(value)
    if not np.isfinite(measured):
        return f'<td class="number" data-value="">{MISSING}</td>'
    shown = f"{measured:,.0f}" if isinstance(value, int) else number(measured, 3)
    return f'<td class="number" data-value="{measured!r}">{shown}</td>'
