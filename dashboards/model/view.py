"""The page of a model: its sections, and the model's tables as its figures take them."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from erasure_sweep.dashboards.cards import Page
from erasure_sweep.dashboards.grids import Grid, grid_of, reading_of, residual_of
from erasure_sweep.dashboards.plots.layer_rows import TOP_ROWS
from erasure_sweep.workers.tables.facts.erasure import top_writers, writers_by_rank
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, verified_groups, was_verified
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import strings, table_of

MAX_OFFERED = 60
MOST_TARGETS = 40
GLANCE, WRITER_BY_WRITER, VERIFIED, ALL_WRITERS = "At a glance", "Writer by writer", "Verified writers", "All writers"


class ModelView:
    """A model's tables as its figures take them, each made once."""

    def __init__(self, model: ModelTables) -> None:
        self.model = model

    @cached_property
    def residual(self) -> Grid:
        return residual_of(self.model.tables)

    @cached_property
    def components(self) -> Grid:
        return grid_of(self.model.tables.get("component_projection"), "component")

    @cached_property
    def reading(self) -> Grid:
        return reading_of(self.model)

    @cached_property
    def writers(self) -> pd.DataFrame:
        return writers_by_rank(self.model.tables)

    @cached_property
    def top(self) -> list[str]:
        """All measured writers, the most erased first."""
        # without a writers table nothing says who is erased: then all measured writers, in stream order
        return top_writers(self.model.tables) or self.residual.measured or self.components.measured

    @cached_property
    def offered(self) -> list[str]:
        """Writers with figures of their own."""
        # a figure for each of many more writers would make the page slow to write and heavy to open
        return self.top if len(self.top) <= MAX_OFFERED else self.top[:TOP_ROWS]

    @cached_property
    def was_verified(self) -> bool:
        return was_verified(self.model.tables)

    @cached_property
    def targets(self) -> list[VerifiedGroup]:
        """All verified writers with their erasers."""
        return verified_groups(self.model.tables)

    @property
    def offered_targets(self) -> list[VerifiedGroup]:
        """Those with figures of their own."""
        return self.targets[:MOST_TARGETS]

    def verified_writers(self, table: str, most: int | None = MOST_TARGETS) -> list[str]:
        """Writers of a table by rank, as many as there are targets with figures."""
        ranks = {writer: rank for rank, writer in enumerate(top_writers(self.model.tables))}
        names = dict.fromkeys(
            name for name in strings(table_of(self.model.tables, table), "writer") if name is not None
        )
        return sorted(names, key=lambda writer: ranks.get(writer, len(ranks)))[:most]


def is_verified(view: ModelView) -> bool:
    """Whether a page has the cards of verified writers."""
    return view.was_verified


MODEL: Page[ModelView] = Page("erasure_sweep.dashboards.model", (GLANCE, WRITER_BY_WRITER, VERIFIED, ALL_WRITERS))
