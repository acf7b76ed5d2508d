"""What was verified: each writer with the heads that are its erasers, and what was found of them, in words.

A writer can be verified with several groups of heads. A group stands in tables by its label, heads joined by ``+`` or
``later``; in ``eraser_group`` every row names its group, and the row of the group's sum stands last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.model_tables import ModelTables, kind_of, numeric, strings, table_of, top_writers
from erasure_sweep.dashboards.plots.quartile_points import eraser_name
from erasure_sweep.dashboards.wording import number, percent, with_interval

VERIFY_TABLES = (
    *("eraser_group", "nulls", "patched_residual_projection", "dla_points", "mlp_erasure", "aligned_tokens"),
    *("adversarial", "adversarial_tokens", "ablation_loss", "carries", "position_profile", "later_use", "dla_trust"),
)
_BY_TARGET = ("nulls", "patched_residual_projection", "position_profile", "later_use", "dla_points", "carries")


class Target(NamedTuple):
    """A verified writer and the group of its erasers, by the label that tables give the group.

    ``strongest_first``: the group's label with the strongest head first, where tables have another order; else empty.
    """

    writer: str
    label: str
    strongest_first: str = ""

    @property
    def group(self) -> str:
        """The erasers as they are shown, the strongest first."""
        return eraser_name(self.strongest_first or self.label)

    @property
    def name(self) -> str:
        """As menus and tables show it."""
        return f"{self.writer} ← {self.group}"


class Verdict(NamedTuple):
    """What was found of one target.

    ``beta`` with ``low`` and ``high``: pooled coefficient of what the group writes because it reads the writer.
    ``clean`` and ``patched``: medians of the group's projection ratio. ``word``: ``erased``, ``not found``, or None
    where there are no intervals to tell by. ``placebo`` are β and the ends of its interval of a placebo read in the
    writer's stead, ``siblings`` the lowest β of a sibling read so; NaN where not measured.
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
    placebo: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    siblings: float = np.nan


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
    ordered = sorted(found, key=lambda target: ranks.get(target.writer, len(ranks)))
    return [target._replace(strongest_first=_strongest_first(model, target)) for target in ordered]


def _strongest_first(model: ModelTables, target: Target) -> str:
    rows = head_rows(model, target)
    betas = dict(zip(strings(rows, "eraser"), numeric(rows, "beta"), strict=True))
    heads = target.label.split("+")
    label = "+".join(sorted(heads, key=lambda head: np.nan_to_num(betas.get(head, 0.0))))
    return label if label != target.label else ""


def first_head(writers: Sequence[str]) -> int:
    """Which of some writers by rank is shown first: the first head, for heads are what most ask about."""
    return next((at for at, writer in enumerate(writers) if kind_of(writer) == "head"), 0)


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
    beta, low, high, clean, patched, position_share = (float(numeric(row, name)[0]) for name in names)
    placebo, siblings = _nulls_read(model, target)
    return Verdict(
        target,
        strings(row, "chosen")[0],
        None if held_out is None else held_out == "True",
        strings(row, "verdict")[0],
        *(beta, low, high, clean, patched, position_share),
        placebo=placebo,
        siblings=siblings,
    )


def _nulls_read(model: ModelTables, target: Target) -> tuple[tuple[float, float, float], float]:
    """β and its interval of the placebo, and the lowest of a sibling, of the part read."""
    table = rows_of(table_of(model, "nulls"), target)
    kinds = zip(strings(table, "null"), strings(table, "of"), strict=True)
    of_read = [kind if of == "v_composed" else None for kind, of in kinds]
    betas = np.stack([numeric(table, name) for name in ("beta", "beta_low", "beta_high")], axis=1)
    placebo = betas[[kind == "placebo" for kind in of_read]]
    siblings = betas[[kind == "siblings" for kind in of_read], 0]
    siblings = siblings[np.isfinite(siblings)]
    beta, low, high = (float(value) for value in placebo[0]) if len(placebo) else (np.nan,) * 3
    return (beta, low, high), float(siblings.min()) if len(siblings) else np.nan


def verdict_line(found: Verdict) -> str:
    """The verdict in a sentence, as the page's opening says it."""
    writer, group = found.target.writer, found.target.group
    if not np.isfinite(found.beta):
        return f"{writer}: nothing was measured of {group}, for its output is zero or was not read."
    held_out = {True: "held-out pooled β", False: "pooled β, on the scan's own prompts,", None: "pooled β"}[
        found.held_out
    ]
    numbers = f"{held_out} {with_interval(found.beta, found.low, found.high)}"
    # a share of what is not there would say nothing
    is_there = found.word in ("erased", None)
    has_share = np.isfinite(found.position_share) and is_there
    share = f"; position alone explains {percent(found.position_share)} of this erasure" if has_share else ""
    share = (_beside_nulls(found) if is_there else "") + share
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


def _beside_nulls(found: Verdict) -> str:
    """How far β is beyond what the same heads would be found to read of a placebo, and of the writer's siblings."""
    said = ""
    if np.isfinite([found.low, found.high, *found.placebo]).all():
        # the end nearer to 0, for either sign, against the farther one of the placebo
        nearest = min(abs(found.low), abs(found.high)) if found.low * found.high > 0 else 0.0
        beyond = nearest > max(abs(end) for end in found.placebo)
        said += f", {'clearly' if beyond else 'not clearly'} beyond the placebo's {number(found.placebo[0])}"
    if np.isfinite(found.siblings) and found.beta < 0:
        reach = f"siblings reach up to {percent(found.siblings / found.beta)} of it"
        said += f"; {reach if found.siblings < 0 else 'no sibling is taken out'}"
    return said


def medians_line(found: Verdict) -> str:
    """How the group's median moves when it cannot read the writer; nothing where that was not measured."""
    if not np.isfinite([found.clean, found.patched]).all():
        return ""
    return (
        f" Median over tokens of the group {number(found.clean)}, {number(found.patched)} without reading the writer."
    )
