"""What was verified: each writer with the heads that are its erasers, and what was found of them, in words.

A writer can be verified with several groups of heads. A group stands in tables by its label, heads joined by ``+`` or
``later``; in ``eraser_group`` every row names its group, and the row of the group's sum stands last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dashboards.points import eraser_name
from dashboards.tables import ModelTables, numeric, strings, table_of, top_writers
from dashboards.wording import number, percent, with_interval

VERIFY_TABLES = (
    *("eraser_group", "nulls", "patched_residual_projection", "dla_points", "mlp_erasure", "aligned_tokens"),
    *("adversarial", "adversarial_tokens", "ablation_loss", "carries", "position_profile", "later_use", "dla_trust"),
)
_BY_TARGET = ("nulls", "patched_residual_projection", "position_profile", "later_use", "dla_points", "carries")


class Target(NamedTuple):
    """A verified writer and the group of its erasers, by the label that tables give the group."""

    writer: str
    label: str

    @property
    def name(self) -> str:
        """As menus and tables show it."""
        return f"{self.writer} ← {eraser_name(self.label)}"


class Verdict(NamedTuple):
    """What was found of one target.

    ``beta`` with ``low`` and ``high``: pooled coefficient of what the group writes because it reads the writer.
    ``clean`` and ``patched``: medians of the group's projection ratio. ``word``: ``erased``, ``not found``, or None
    where there are no intervals to tell by.
    """

    target: Target
    chosen: str | None
    held_out: bool | None
    word: str | None
    beta: float
    low: float
    high: float
    clean: float
    patched: float
    position_share: float


def was_verified(model: ModelTables) -> bool:
    """Whether any table of verify has rows."""
    return any(len(table_of(model, name)) for name in VERIFY_TABLES)


def verified_targets(model: ModelTables) -> list[Target]:
    """The model's targets, writers by rank, the groups of one writer as they come."""
    found: dict[Target, None] = {}
    for name in _BY_TARGET:
        table = table_of(model, name)
        if "eraser" in table:
            pairs = table[["writer", "eraser"]].dropna().astype(str).drop_duplicates()
            found |= dict.fromkeys(Target(*pair) for pair in pairs.itertuples(index=False, name=None))
    groups = table_of(model, "eraser_group")
    if "group" in groups:
        pairs = groups[["writer", "group"]].dropna().astype(str).drop_duplicates()
        found |= dict.fromkeys(Target(*pair) for pair in pairs.itertuples(index=False, name=None))
    ranks = {writer: rank for rank, writer in enumerate(top_writers(model))}
    return sorted(found, key=lambda target: ranks.get(target.writer, len(ranks)))


def rows_of(table: pd.DataFrame, target: Target) -> pd.DataFrame:
    """The target's rows of a table that names writer and group."""
    if "eraser" not in table:
        return table.iloc[:0]
    return table[(table["writer"].astype(str) == target.writer) & (table["eraser"].astype(str) == target.label)]


def rows_of_writer(table: pd.DataFrame, writer: str) -> pd.DataFrame:
    """The writer's rows of a table."""
    return table[table["writer"].astype(str) == writer]


def _group_rows(model: ModelTables, target: Target) -> pd.DataFrame:
    """The target's rows of ``eraser_group``: its heads and, last, their sum."""
    rows = rows_of_writer(table_of(model, "eraser_group"), target.writer)
    known = {"group", "eraser"} <= set(rows.columns)
    return rows[rows["group"].astype(str) == target.label] if known else rows.iloc[:0]


def group_row(model: ModelTables, target: Target) -> pd.DataFrame:
    """The row of the group's sum in ``eraser_group``; no row where it was not measured."""
    rows = _group_rows(model, target)
    return rows_of(rows, target).iloc[-1:]


def head_rows(model: ModelTables, target: Target) -> pd.DataFrame:
    """A row per head of a group of several, in the order of the stream; none for a single head, which is its group."""
    rows = _group_rows(model, target)
    return rows[rows["eraser"].astype(str) != target.label] if len(rows) else rows


def verdict_of(model: ModelTables, target: Target) -> Verdict | None:
    """What ``eraser_group`` says of the target; None where it does not."""
    row = group_row(model, target)
    if not len(row):
        return None
    held_out = strings(row, "held_out")[0]
    names = ("beta", "beta_low", "beta_high", "clean_median", "patched_median", "position_share")
    return Verdict(
        target,
        strings(row, "chosen")[0],
        None if held_out is None else held_out == "True",
        strings(row, "verdict")[0],
        *(float(numeric(row, name)[0]) for name in names),
    )


def verdict_line(found: Verdict) -> str:
    """The verdict in a sentence, as the page's opening says it."""
    writer, group = found.target.writer, eraser_name(found.target.label)
    if not np.isfinite(found.beta):
        return f"{writer}: nothing was measured of {group}, for its output is zero or was not read."
    held_out = {True: "held-out β", False: "β, on the scan's own prompts,", None: "β"}[found.held_out]
    numbers = f"{held_out} {with_interval(found.beta, found.low, found.high)}"
    # a share of what is not there would say nothing
    has_share = np.isfinite(found.position_share) and found.word in ("erased", None)
    share = f"; position alone explains {percent(found.position_share)}" if has_share else ""
    if found.word == "erased":
        return f"{writer} is erased by {group}: {numbers}{share}."
    if found.word is None:
        reason = (
            ", for one block of prompts gives no interval" if not np.isfinite([found.low, found.high]).all() else ""
        )
        return f"{writer}: no verdict on {group}{reason}: {numbers}{share}."
    if found.chosen == "all":
        return f"{writer}: erasure {found.word}, no single head qualifies; all later heads together: {numbers}."
    return f"{writer}: erasure by {group} {found.word}: {numbers}."


def medians_line(found: Verdict) -> str:
    """How the group's median moves when it cannot read the writer; nothing where that was not measured."""
    if not np.isfinite([found.clean, found.patched]).all():
        return ""
    return f" Median of the group {number(found.clean)}, {number(found.patched)} without reading the writer."
