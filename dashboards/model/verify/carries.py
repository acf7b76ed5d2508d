"""What the writers carry: position, the token that stands there, and which part of it is erased."""

from __future__ import annotations

from typing import Any

import numpy as np

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.workers.tables.facts.verified import rows_of
from erasure_sweep.workers.tables.values import numeric, strings, table_of

_PARTS = {"all": "its whole output", "bos": "read from the first token", "non_bos": "read from all other tokens"}


@card(MODEL, "carries", VERIFIED, order=110, when=is_verified)
def carries_table(view: ModelView) -> HtmlTable:
    """A row per target and part of the writer's output."""
    columns = [
        HtmlColumn("writer ← erasers"),
        HtmlColumn("of its output", "the whole, or what a head reads from the first token and from all others"),
        HtmlColumn("share of power", "pooled coefficient of the part along the whole output", True),
        HtmlColumn("variance", "mean squared distance from the mean over tokens", True),
        HtmlColumn("of its variance: position", "share of the variance between positions, chance taken off", True),
        HtmlColumn(
            "of its variance: token",
            "share of the variance between the tokens that stand there, chance taken off",
            True,
        ),
        HtmlColumn(
            "erased, named erasers",
            "pooled share of the part that the named erasers alone take out because they read it, on the prompts verified "
            "on; elsewhere it is all later heads, on the scan's prompts",
            True,
        ),
        HtmlColumn("tokens", "", True),
    ]
    numbers = ("power_share", "variance", "position_share", "token_share", "erased_by_group")
    rows: list[list[Any]] = []
    for target in view.targets:
        table = rows_of(table_of(view.model.tables, "carries"), target)
        for row, part in enumerate(strings(table, "part")):
            values = [float(numeric(table, name)[row]) for name in numbers]
            rows.append(
                [pair_name(target), _PARTS.get(part or "", part), *values, count_cell(numeric(table, "n")[row])]
            )
    return HtmlTable(
        "What the writers carry",
        "How much of each writer's output is a matter of position alone, and how much of the token that stands there "
        "(1 would be all of its variance; values a little below 0 are chance). Of a head also what it writes from the "
        "first token, where attention often rests, and from all others. This is about the writer; what position alone "
        "explains of its erasure, which verdicts say, is another number. Erased is here the share of each "
        "part that the named erasers alone take out because they read it, pooled over the prompts verified on; "
        "elsewhere on this page it is what all later heads take out, on the scan's prompts, so the two need not agree. "
        "— means that nothing varies.",
        columns,
        rows,
        empty="This run did not measure it: the table carries is missing or empty.",
        filter_by="writer or part",
        tables=("carries",),
    )


def count_cell(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None
