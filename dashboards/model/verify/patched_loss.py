"""What erasing is worth to the model."""

from __future__ import annotations

from typing import Any

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.ablation_loss import LOSS_COLUMNS, loss_cells
from erasure_sweep.dashboards.model.verify.patched_residual import PATCHES
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.workers.tables.facts.verified import rows_of
from erasure_sweep.workers.tables.values import strings, table_of


@card(MODEL, "patched-loss", VERIFIED, order=105, when=is_verified)
def patched_loss_table(view: ModelView) -> HtmlTable:
    """A row per target and patch."""
    rows: list[list[Any]] = []
    for target in view.targets:
        table = rows_of(table_of(view.model.tables, "patched_loss"), target)
        rows += [
            [pair_name(target), PATCHES.get(patch or "", patch), *cells]
            for patch, cells in zip(strings(table, "patch"), loss_cells(table), strict=True)
        ]
    return HtmlTable(
        "What erasing is worth to the model",
        "How much worse the model predicts the next token, in nats, when the erasers do not read the writer, everything "
        "later computed anew. Above 0, the model predicts better because they erase; an interval that holds 0 says that "
        "it was not seen to matter for the loss on these prompts.",
        [HtmlColumn("writer ← erasers"), HtmlColumn("do not read it"), *LOSS_COLUMNS],
        rows,
        empty="This run did not measure it: the table patched_loss is missing or empty.",
        filter_by="writer",
        tables=("patched_loss",),
    )
