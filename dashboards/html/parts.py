"""What a page is made of: cards of figures, tables, texts, and the choices above them.

``dashboards/html/document.py`` turns them into a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

WRITER = "Writer"
"""How the label of a control begins that chooses a writer: these follow the page's own choice of one."""
LAYER = "Layer"
"""The label of a slider over layers, which follows the page's writer to its layer."""
ARROW = " ←"
"""What stands between a writer and its erasers where an option names both."""


class SortedCell(NamedTuple):
    """A cell of a table that shows ``markup`` and sorts by ``value``; NaN stays last."""

    markup: Markup
    value: float


class Control(NamedTuple):
    """A choice above a figure: a drop-down list, or a slider over named steps; ``chosen`` is where it starts."""

    label: str
    options: Sequence[str]
    kind: Literal["select", "range"] = "select"
    chosen: int = 0


OUTPUTS = Control("Outputs", ["as they are", "means removed"], chosen=1)
"""Constants rule the numbers of outputs as they are, in deep models above all: with means removed stands first."""


def chosen_key(controls: Sequence[Control]) -> str:
    """Key of the figure or text that controls choose as they start."""
    return ".".join(str(control.chosen) for control in controls) or "0"


def writers_of(control: Control) -> list[str]:
    """The writers among a control's options; none where it does not choose one.

    An option is a writer, or a writer and its erasers. What has spaces in its name (``the 5 most erased``) is no writer.
    """
    is_list = control.kind == "select"
    is_writers = is_list and (control.label == WRITER or control.label.startswith(f"{WRITER} "))
    named = [option.partition(ARROW)[0] for option in control.options] if is_writers else []
    return [name for name in dict.fromkeys(named) if name and " " not in name]


@dataclass(frozen=True)
class Card:
    """One figure, or one per choice; ``empty`` stands where there is none.

    ``panels`` stand side by side: a name has the figures of its place in the row, a ``Control`` those that it chooses.
    ``tables`` are the names of the tables that the numbers are from. ``group`` is the heading of neighbouring parts in
    the page's list of them.
    """

    title: str
    caption: str
    figures: dict[str, go.Figure]
    controls: Sequence[Control] = ()
    panels: Sequence[str | Control] = ()
    min_width: int = 0
    empty: str = "The tables hold nothing to draw here."
    tables: Sequence[str] = ()
    key: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)

    @property
    def is_empty(self) -> bool:
        return not self.figures


@dataclass(frozen=True)
class Prose:
    """Text in HTML, one body or one per choice, by the same keys as a card's figures; only the chosen one is shown."""

    title: str
    caption: str
    bodies: Mapping[str, Markup]
    controls: Sequence[Control] = ()
    tables: Sequence[str] = ()
    empty: str = "The tables hold nothing to show here."
    key: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)

    @property
    def is_empty(self) -> bool:
        return not self.bodies


class HtmlColumn(NamedTuple):
    """A table's column: its heading, what explains it, and whether it holds numbers.

    ``filtered``: the table's filter looks into it, if it holds text. ``width``: how long its strings are; narrow ones
    stay in one line.
    """

    heading: str
    title: str = ""
    is_number: bool = False
    filtered: bool = True
    width: Literal["narrow", "wide", "broad"] = "wide"


class NumberColumn(NamedTuple):
    """A column of numbers: what a parquet table calls it, its heading, and what explains it."""

    name: str
    heading: str
    title: str

    @property
    def html(self) -> HtmlColumn:
        return HtmlColumn(self.heading, self.title, is_number=True)


@dataclass(frozen=True)
class HtmlTable:
    """A sortable table; a cell is a number (NaN where missing), a string, ready ``Markup``, or ``SortedCell``.

    ``filter_by``: what a long table's filter looks for. ``tables`` are the names of the tables that the numbers are from.
    """

    title: str
    caption: str
    columns: Sequence[HtmlColumn]
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    empty: str = "The tables hold no rows to show here."
    filter_by: str = "name"
    tables: Sequence[str] = ()
    key: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)

    @property
    def is_empty(self) -> bool:
        return not self.rows


Part = Card | HtmlTable | Prose
