"""What can be chosen of a model's maps of writers by erasers: whole layers or heads, all writers or the most erased."""

from __future__ import annotations

from typing import NamedTuple

from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Control
from erasure_sweep.dashboards.plots.layer_rows import MAX_WRITERS, TOP_ROWS
from erasure_sweep.dashboards.plots.writer_maps import MapColumns

COLUMNS: tuple[tuple[MapColumns, str], ...] = (("heads", "heads"), ("layers", "whole layers"))
ERASERS = Control("Erasers", [name for _, name in COLUMNS])
_ROWS = Control("Writers", ["all, in stream order", "the most erased, means kept"])
NOT_MEASURED = "This run did not measure it, or no measured writer has a later attention layer"


class MapChoice(NamedTuple):
    """A choice of erasers and of the writers' order, and what it adds to a figure's key."""

    columns: MapColumns
    by_rank: bool
    key: str


def map_choices(grid: Grid) -> list[MapChoice]:
    if _is_large(grid):
        return [MapChoice("layers", False, "")]
    return [
        MapChoice(columns, by_rank, f".{number}.{int(by_rank)}")
        for number, (columns, _) in enumerate(COLUMNS)
        for by_rank in (False, True)
    ]


def _is_large(grid: Grid) -> bool:
    return len(grid.writers) > MAX_WRITERS


def map_controls(first: Control, grid: Grid) -> list[Control]:
    return [first] if _is_large(grid) else [first, ERASERS, _ROWS]


def if_many_writers(grid: Grid) -> str:
    if not _is_large(grid):
        return ""
    return (
        f" This model has more than {MAX_WRITERS} writers before its last layer: rows are the median over each layer's "
        f"writers, then the {TOP_ROWS} most erased writers, means kept, columns whole attention layers. Every pair is in the "
        "parquet tables."
    )
