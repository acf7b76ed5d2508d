"""Cards: where the pages, single figures, exports and notebooks find every figure, table and text.

A figure is one file. It marks the function that makes its card with ``@card``, and says there on which page and where on it
the card stands:

    @card(MODEL, "ledger", "At a glance", order=30)
    def ledger_card(view: ModelView) -> Card: ...

The files of a page's package are imported when the page is first asked for its cards, so none is listed anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from erasure_sweep.dashboards.html.parts import Part

View = TypeVar("View")
"""What a page's cards are made from: ``ModelView``, ``ComparisonView``."""


class CardEntry(NamedTuple, Generic[View]):
    """A card of a page, not yet made.

    Attributes:
        key: its name in addresses, and for ``export``.
        place: section and order on the page, of which the view can decide.
        when: whether a page of this view has the card.
        alone: whether it is a page of its own as well.
    """

    key: str
    place: Callable[[View], tuple[str, int]]
    make: Callable[[View], Part]
    when: Callable[[View], bool]
    alone: bool


class Page(Generic[View]):
    """The cards of one kind of page.

    Args:
        package: the package whose files bring the cards.
        sections: the page's sections in reading order; a section without a name has no heading in the list of parts.
    """

    def __init__(self, package: str, sections: Sequence[str]) -> None:
        self.package = package
        self.sections = sections
        self._entries: dict[str, CardEntry[View]] = {}

    def add(self, entry: CardEntry[View]) -> None:
        """Raises ValueError where another card has this key."""
        if entry.key in self._entries:
            raise ValueError(f"{self.package} has two cards {entry.key!r}")
        self._entries[entry.key] = entry

    def entries(self) -> list[CardEntry[View]]:
        """All cards, by key."""
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)
        return [self._entries[key] for key in sorted(self._entries)]

    def parts(self, view: View, keys: Collection[str] | None = None) -> list[Part]:
        """The page's parts in reading order; only those of ``keys``, where these are given."""
        placed = []
        for entry in self.entries():
            if (keys is None or entry.key in keys) and entry.when(view):
                section, order = entry.place(view)
                placed.append((self.sections.index(section), order, entry))
        return [
            replace(entry.make(view), key=entry.key, group=self.sections[at])
            for at, _, entry in sorted(placed, key=lambda place: place[:2])
        ]


def card(
    page: Page[View],
    key: str,
    section: str | Callable[[View], tuple[str, int]] = "",
    order: int = 0,
    *,
    when: Callable[[View], bool] = lambda view: True,
    alone: bool = False,
) -> Callable[[Callable[[View], Part]], Callable[[View], Part]]:
    """Put a card on a page; the attributes of ``CardEntry`` say how.

    ``section`` is one of the page's, or says section and order of a view. Within a section cards stand by ``order``.
    """

    def register(make: Callable[[View], Part]) -> Callable[[View], Part]:
        if not callable(section) and section not in page.sections:
            raise ValueError(f"{page.package} has no section {section!r}")
        place = section if callable(section) else lambda view: (section, order)
        page.add(CardEntry(key, place, make, when, alone))
        return make

    return register
