"""What was verified: each writer with a group of heads that are its erasers, and what was found of them.

A writer can be verified with several groups. A group stands in tables by its label, heads joined by ``+`` or ``later``; in
``eraser_group`` every row names its group, and the row of the group's sum stands last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.workers.labels import is_head, layer_of
from erasure_sweep.workers.tables.facts.erasure import strongest_first, top_writers
from erasure_sweep.workers.tables.registry import TABLES
from erasure_sweep.workers.tables.values import Tables, numeric, rows_where, strings, table_of

LATER = "later"
"""The sum of all heads of later layers, as tables of erasers name it."""
NAN = float("nan")
_OF_ALL_WRITERS = ("dla_trust", "dla_mediation")


class VerifiedGroup(NamedTuple):
    """A verified writer and the group of its erasers, by the label that tables give the group."""

    writer: str
    label: str
    heads: tuple[str, ...]
    """The group's heads, the strongest first; ``later`` where tables name no single head."""


class Interval(NamedTuple):
    """A number and the ends of its 95 % interval, NaN where there is none."""

    value: float
    low: float
    high: float


class MedianPresence(NamedTuple):
    """Median share of a writer in the stream, NaN where not measured."""

    clean: float
    patched: float
    """Where its erasers do not read it."""


class NullBetas(NamedTuple):
    """β of what stands in a writer's place as a null, each with a group of its own; NaN where not measured."""

    lowest: float
    """Of the one that is taken out most."""
    median: float


class Verdict(NamedTuple):
    """What was found of one group; NaN and None where something has no value."""

    group: VerifiedGroup
    chosen: str | None
    """Why this group, in a word of ``records.Target``."""
    held_out: bool | None
    word: str | None
    """One of ``facts.verdict``; None where there are no intervals to tell by."""
    beta: Interval
    """Pooled coefficient of what the group writes because it reads the writer."""
    median: MedianPresence
    """Of the projection ratio of the group's output."""
    position_share: float
    placebos: NullBetas
    siblings: NullBetas
    dla_slope: float
    """Of the DLA of the part that is read on the writer's."""
    presence: MedianPresence
    """Of the writer right behind its last eraser."""


def was_verified(tables: Tables) -> bool:
    """Whether any writer was verified: verify writes rows of those beside what it says of the attributions of all."""
    names = (name for name, table in TABLES.items() if table.stages == ("verify",) and name not in _OF_ALL_WRITERS)
    return any(len(table_of(tables, name)) for name in names)


def verified_groups(tables: Tables) -> list[VerifiedGroup]:
    """What was verified, writers by rank, the groups of one writer as they come."""
    pairs: dict[tuple[str, str], None] = {}
    for name, column in _BY_GROUP.items():
        table = table_of(tables, name)
        if column in table:
            rows = table[["writer", column]].dropna().astype(str).drop_duplicates()
            pairs |= dict.fromkeys(rows.itertuples(index=False, name=None))
    ranks = {writer: rank for rank, writer in enumerate(top_writers(tables))}
    ordered = sorted(pairs, key=lambda pair: ranks.get(pair[0], len(ranks)))
    return [VerifiedGroup(*pair, _strongest_first(tables, *pair)) for pair in ordered]


_BY_GROUP = {
    "eraser_group": "group",
    **dict.fromkeys(
        (
            *("nulls", "patched_residual_projection", "position_profile", "later_use", "patched_loss"),
            *("dla_points", "carries"),
        ),
        "eraser",
    ),
}
"""The tables that name a group, and the column that does."""


def _strongest_first(tables: Tables, writer: str, label: str) -> tuple[str, ...]:
    rows = _rows_of_group(tables, writer, label)
    strengths = zip(strings(rows, "eraser"), numeric(rows, "beta").tolist(), strict=True)
    return tuple(strongest_first(label, {str(head): beta for head, beta in strengths}))


def rows_of(table: pd.DataFrame, group: VerifiedGroup) -> pd.DataFrame:
    """The group's rows of a table that names it in ``eraser``."""
    return rows_where(table, writer=group.writer, eraser=group.label)


def _rows_of_group(tables: Tables, writer: str, label: str) -> pd.DataFrame:
    """A group's rows of ``eraser_group``: its heads and, last, their sum."""
    return rows_where(table_of(tables, "eraser_group"), writer=writer, group=label)


def sum_row(tables: Tables, group: VerifiedGroup) -> pd.DataFrame:
    """The row of the group's sum in ``eraser_group``; no row where it was not measured."""
    return rows_of(_rows_of_group(tables, group.writer, group.label), group).iloc[-1:]


def head_rows(tables: Tables, group: VerifiedGroup) -> pd.DataFrame:
    """A row per head of a group of several, in the order of the stream; none for a single head, which is its group."""
    rows = _rows_of_group(tables, group.writer, group.label)
    return rows[rows["eraser"].astype(str) != group.label] if "eraser" in rows else rows


def verdicts(tables: Tables) -> list[Verdict]:
    """What was found of every group that ``eraser_group`` speaks of."""
    found = (verdict_of(tables, group) for group in verified_groups(tables))
    return [verdict for verdict in found if verdict]


def verdict_of(tables: Tables, group: VerifiedGroup) -> Verdict | None:
    """What was found of a group; None where ``eraser_group`` does not speak of it."""
    row = sum_row(tables, group)
    if not len(row):
        return None
    held_out = strings(row, "held_out")[0]
    null = rows_where(rows_of(table_of(tables, "nulls"), group), of="v_composed")
    return Verdict(
        group,
        chosen=strings(row, "chosen")[0],
        held_out=None if held_out is None else held_out == "True",
        word=strings(row, "verdict")[0],
        beta=_interval(row),
        median=MedianPresence(_first(row, "clean_median"), _first(row, "patched_median")),
        position_share=_first(row, "position_share"),
        placebos=_null_betas(null, "placebo"),
        siblings=_null_betas(null, "siblings"),
        dla_slope=_dla_slope(tables, group),
        presence=_presence_behind(tables, group),
    )


def _first(rows: pd.DataFrame, column: str) -> float:
    """A column's number in the first row; NaN where there is none."""
    return float(numeric(rows, column)[0]) if len(rows) else NAN


def _interval(rows: pd.DataFrame) -> Interval:
    return Interval(*(_first(rows, column) for column in ("beta", "beta_low", "beta_high")))


def _null_betas(nulls: pd.DataFrame, kind: str) -> NullBetas:
    betas = numeric(rows_where(nulls, null=kind), "beta")
    found = betas[np.isfinite(betas)]
    return NullBetas(float(found.min()), float(np.median(found))) if len(found) else NullBetas(NAN, NAN)


def _dla_slope(tables: Tables, group: VerifiedGroup) -> float:
    lines = rows_of(table_of(tables, "dla_correlation"), group)
    return _first(rows_where(lines, effect="v_composition", stage="verify"), "slope")


def _presence_behind(tables: Tables, group: VerifiedGroup) -> MedianPresence:
    """Of the writer in the state right behind the attention of the group's last layer."""
    heads = head_rows(tables, group)["eraser"].astype(str) if group.label == LATER else group.heads
    layer = max((layer_of(head) for head in heads if is_head(head)), default=None)
    states = rows_where(rows_of(table_of(tables, "patched_residual_projection"), group), patch="group")
    # models without MLPs have no state between attention and the layer's end
    behind = [rows_where(states, state=f"resid_{where}{layer}") for where in ("mid", "post")]
    row = next((rows for rows in behind if len(rows)), states.iloc[:0])
    return MedianPresence(_first(row, "clean_median"), _first(row, "patched_median"))
