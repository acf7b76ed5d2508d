"""Rows of models too large for a row per writer: each layer's median over its writers."""

from __future__ import annotations

import numpy as np

from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.workers.labels import place_of
from erasure_sweep.workers.tables.values import Floats

MAX_WRITERS = 200
TOP_ROWS = 40


def layer_groups(grid: Grid) -> dict[str, list[int]]:
    """Rows of a grid whose writers are of one layer, under the name of their median."""
    groups: dict[str, list[int]] = {}
    for index, writer in enumerate(grid.writers):
        place = place_of(writer)
        name = "other" if place is None else "embeddings" if place.layer < 0 else f"layer {place.layer} (median)"
        groups.setdefault(name, []).append(index)
    return groups


def column_medians(values: Floats) -> Floats:
    """Median of each column over what is not NaN; NaN where nothing is."""
    seen = np.isfinite(values).any(axis=0)
    medians = np.full(values.shape[1], np.nan)
    medians[seen] = np.nanmedian(values[:, seen], axis=0)
    return medians
