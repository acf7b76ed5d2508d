"""What verify found of a model, a row for each target: read from its tables for the final table and for MLflow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.verify.trust_words import WORDS


class Verified(NamedTuple):
    """A writer and its erasers on verify's prompts; NaN and ``None`` where something has no value."""

    writer: str
    erasers: str
    """As tables name the group."""
    held_out: bool
    beta: float
    """Pooled coefficient of the group's V-composed part, and its interval."""
    low: float
    high: float
    slope: float
    """Of the DLA of that part on the writer's."""
    clean: float
    """Median presence of the writer behind its last eraser."""
    patched: float
    """The same where the group does not read it."""
    verdict: str | None


def verified_targets(tables: Mapping[str, pd.DataFrame]) -> list[Verified]:
    """The targets in the order of the tables; none where nothing was verified."""
    if "eraser_group" not in tables:
        return []
    rows = tables["eraser_group"].groupby(["writer", "group"], sort=False)
    return [_verified(tables, group) for _, group in rows]


def _verified(tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame) -> Verified:
    """One target, from the rows of its erasers and behind them that of the group."""
    group = rows.iloc[-1]
    writer, label = str(group["writer"]), str(group["group"])
    heads = [head for name in rows["eraser"] for head in re.findall(r"L\d+H\d+", name)]
    clean, patched = _presence(tables.get("patched_residual_projection"), writer, label, max(map(layer_of, heads)))
    return Verified(
        writer,
        label,
        bool(group["held_out"]),
        float(group["beta"]),
        float(group["beta_low"]),
        float(group["beta_high"]),
        _slope(tables.get("dla_correlation"), writer, label),
        clean,
        patched,
        group["verdict"] if isinstance(group["verdict"], str) else None,
    )


def _presence(table: pd.DataFrame | None, writer: str, label: str, layer: int) -> tuple[float, float]:
    """Clean and patched, right behind the attention of a layer."""
    if table is None:
        return float("nan"), float("nan")
    mine = table[(table["writer"] == writer) & (table["eraser"] == label) & (table["patch"] == "group")]
    rows = mine.set_index("state")
    state = f"resid_mid{layer}" if f"resid_mid{layer}" in rows.index else f"resid_post{layer}"
    return float(rows["clean_median"][state]), float(rows["patched_median"][state])


def _slope(table: pd.DataFrame | None, writer: str, label: str) -> float:
    if table is None:
        return float("nan")
    rows = table[(table["writer"] == writer) & (table["eraser"] == label) & (table["effect"] == "v_composition")]
    slopes = rows.loc[rows["stage"] == "verify", "slope"]
    return float(slopes.iloc[0]) if len(slopes) else float("nan")


def trust_counts(tables: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """How many writers there are of each word of ``WORDS``; empty where trust was not measured."""
    if "dla_trust" not in tables:
        return {}
    found = Counter(tables["dla_trust"]["trust"].dropna())
    return {word: found[word] for word in WORDS}
