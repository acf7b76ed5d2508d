"""Components onto a writer in several runs: what the figures of MLPs and of later use share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.plots.medians import Quartiles, quartiles
from erasure_sweep.dashboards.wording import with_interval
from erasure_sweep.workers.labels import component_order
from erasure_sweep.workers.tables.values import Floats, numeric

MOST_COMPONENTS = 40
_NAMED = 4


class ComponentRuns(NamedTuple):
    """Components onto a writer in several runs, each with a name from the data's columns; ``left_out`` are not drawn."""

    writer: str
    labels: list[str]
    runs: dict[str, Quartiles]
    left_out: int
    beta: Floats
    low: Floats
    high: Floats


def component_runs(
    writer: str, table: pd.DataFrame, names: Sequence[str], beta: str, most: int = MOST_COMPONENTS
) -> ComponentRuns | None:
    if "component" not in table:
        return None
    table = table.dropna(subset="component").drop_duplicates("component").set_index("component")
    table = table.loc[component_order(table.index.astype(str))]
    left_out = max(0, len(table) - most)
    if left_out:
        strength = np.nan_to_num(np.abs(numeric(table, beta)))
        table = table.iloc[np.sort(np.argsort(-strength, kind="stable")[:most])]
    runs = {name: quartiles(table, name) for name in names}
    if not np.isfinite(np.concatenate([values.median for values in runs.values()])).any():
        return None
    betas = (numeric(table, f"{beta}{suffix}") for suffix in ("", "_low", "_high"))
    return ComponentRuns(writer, table.index.astype(str).tolist(), runs, left_out, *betas)


def strongest_components(shown: ComponentRuns, among: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """The largest β among some of the components, with their intervals."""
    rows = [int(row) for row in np.argsort(-np.nan_to_num(np.abs(shown.beta)), kind="stable") if among[row]]
    return ", ".join(
        f"{shown.labels[row]}\u00a0{with_interval(shown.beta[row], shown.low[row], shown.high[row])}"
        for row in rows[:_NAMED]
    )
