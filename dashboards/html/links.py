"""Where a model's page, tables and run are, and links that lead nowhere else than they say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from markupsafe import Markup, escape

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


def link(href: str | None, words: str) -> Markup:
    """A link in HTML; only the words where there is no href, or one that is neither relative nor file, http or https."""
    return Markup('<a href="{}">{}</a>').format(href, words) if href and _is_plain(href) else escape(words)


def _is_plain(href: str) -> bool:
    # browsers pass over spaces and control characters in a scheme, and take a backslash for a slash
    if _CONTROL.search(href) or href.startswith("//"):
        return False
    try:
        return urlsplit(href).scheme in _SCHEMES
    except ValueError:
        return False
