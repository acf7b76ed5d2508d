"""Tokens that the writers point at."""

from __future__ import annotations

import numpy as np

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verify.carries import count_cell
from erasure_sweep.dashboards.model.verify.prompt_words import code, token_words
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.workers.tables.values import numeric, strings, table_of


@card(MODEL, "aligned-tokens", VERIFIED, order=130, when=is_verified)
def aligned_table(view: ModelView) -> HtmlTable:
    """A row per writer and token, writers by rank, tokens with the highest logits first."""
    table = table_of(view.model.tables, "aligned_tokens")
    tokens = zip(strings(table, "token"), numeric(table, "token_id"), strict=True)
    logits, ranks = numeric(table, "mean_direct_logit"), numeric(table, "rank")
    rows = [
        [
            writer,
            count_cell(ranks[row]),
            code(token_words(token, token_id)),
            str(int(token_id)) if np.isfinite(token_id) else None,
            float(logits[row]),
        ]
        for row, (writer, (token, token_id)) in enumerate(zip(strings(table, "writer"), tokens, strict=True))
    ]
    return HtmlTable(
        "Tokens that the writers point at",
        "The tokens whose logits a writer's output would raise most on average over all measured tokens, if nothing "
        "later read it. Line ends are shown as ↵; #17 is a token's number, of a model without a tokenizer.",
        [
            HtmlColumn("writer"),
            HtmlColumn("rank", "", True),
            HtmlColumn("token"),
            HtmlColumn("token id", width="narrow"),
            HtmlColumn("mean direct logit", "", True),
        ],
        rows,
        empty="This run did not measure it: the table aligned_tokens is missing or empty.",
        filter_by="writer or token",
        tables=("aligned_tokens",),
    )
