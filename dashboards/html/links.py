"""Where a model's page, tables and run are, and the line under each part of a page that leads to its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from erasure_sweep.dashboards.html.cards import escape

_SCHEMES = ("", "file", "http", "https")
_CONTROL = re.compile(r"[\x00-\x20\x7f\\]")


class Home(NamedTuple):
    """Where a model's page, tables and MLflow run are: hrefs as seen from the page that links to them.

    ``tables`` maps a table's name to its href; ``run`` is the http(s) address of the run on an MLflow server.
    """

    page: str | None = None
    tables: Mapping[str, str] = MappingProxyType({})
    run: str | None = None

    def at_writer(self, writer: str) -> str | None:
        """The page opened on a writer; MLflow's viewer keeps no such place, so there it is the page alone."""
        if self.page is None or "/artifacts/" in self.page.partition("#")[2]:
            return self.page
        return f"{self.page}#writer={quote(writer)}"


def link(href: str | None, words: str) -> str:
    """A link in HTML; only the words where there is no href, or one that is neither relative nor file, http or https."""
    return f'<a href="{escape(href)}">{escape(words)}</a>' if href and _is_plain(href) else escape(words)


def _is_plain(href: str) -> bool:
    # browsers pass over spaces and control characters in a scheme, and take a backslash for a slash
    if _CONTROL.search(href) or href.startswith("//"):
        return False
    try:
        return urlsplit(href).scheme in _SCHEMES
    except ValueError:
        return False


def numbers_line(tables: Sequence[str], homes: Mapping[str, Home]) -> str:
    """Where a part's numbers are, in HTML: one line for one model, a list that opens for several; nothing for none."""
    if not tables:
        return ""
    if len(homes) < 2:
        home = next(iter(homes.values()), Home())
        return f'<p class="numbers">Numbers: {_places(tables, home)}</p>\n'
    items = "".join(f"<li>{link(home.page, name)}: {_places(tables, home)}</li>" for name, home in homes.items())
    return (
        f'<details class="numbers"><summary>The numbers: {escape(", ".join(tables))}</summary>'
        f"<ul>{items}</ul></details>\n"
    )


def _places(tables: Sequence[str], home: Home) -> str:
    named = ", ".join(link(home.tables.get(name), f"{name}.parquet") for name in tables)
    return named + (f" · {link(home.run, 'run in MLflow')}" if home.run else "")
