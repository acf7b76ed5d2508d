"""What the loss of a writer costs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verify.carries import count_cell
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.wording import interval
from erasure_sweep.workers.tables.values import numeric, strings, table_of

_ABLATIONS = {
    "equal_position": "from another prompt, same position",
    "random_position": "from another prompt, another position",
}

LOSS_COLUMNS = (
    HtmlColumn("loss", "mean over tokens, in nats, of the next token", True),
    HtmlColumn("mean increase", "in nats", True),
    HtmlColumn("95\u00a0%", "interval of the mean increase", filtered=False, width="narrow"),
    HtmlColumn("median increase", "in nats", True),
    HtmlColumn("quartiles", "of the increase, in nats", filtered=False, width="narrow"),
    HtmlColumn("tokens", "", True),
)


def loss_cells(table: pd.DataFrame) -> list[list[Any]]:
    """What stands under ``LOSS_COLUMNS`` in each row of a table of losses."""
    names = ("clean_loss", "increase_mean", "increase_mean_low", "increase_mean_high", "median", "q25", "q75", "n")
    rows = zip(*(numeric(table, name) for name in names), strict=True)
    return [
        [loss, mean, interval(low, high, 3) or None, median, interval(q25, q75, 3) or None, count_cell(n)]
        for loss, mean, low, high, median, q25, q75, n in rows
    ]


@card(MODEL, "ablation-loss", VERIFIED, order=120, when=is_verified)
def loss_table(view: ModelView) -> HtmlTable:
    """A row per writer and way of resampling it."""
    table = table_of(view.model.tables, "ablation_loss")
    rows = [
        [writer, _ABLATIONS.get(ablation or "", ablation), *cells]
        for writer, ablation, cells in zip(
            strings(table, "writer"), strings(table, "ablation"), loss_cells(table), strict=True
        )
    ]
    return HtmlTable(
        "What the loss of a writer costs",
        "How much worse the model predicts the next token, in nats, when a writer's output is replaced by its output on "
        "another prompt and everything later is computed anew. At the same position it keeps what it says of "
        "position; at another it loses that as well.",
        [HtmlColumn("writer"), HtmlColumn("its output replaced by one"), *LOSS_COLUMNS],
        rows,
        empty="This run did not measure it: the table ablation_loss is missing or empty.",
        filter_by="writer",
        tables=("ablation_loss",),
    )
