"""Heads that take a part out of nearly every earlier head, in numbers."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable, NumberColumn
from erasure_sweep.dashboards.model.view import ALL_WRITERS, MODEL, ModelView
from erasure_sweep.dashboards.wording import number, percent
from erasure_sweep.workers.tables.facts.erasers import broad_erasers, widest_eraser
from erasure_sweep.workers.tables.values import Tables, numeric

_NUMBERS = (
    NumberColumn(
        "beta_sum", "sum of β", "of its V-composed parts onto all earlier writers that it takes more than τ out of"
    ),
    NumberColumn("beta_mean", "mean β", "of the same"),
    NumberColumn("head_median", "median β, all earlier heads", "whether or not it takes anything out of them"),
    NumberColumn("random_mean", "mean β, random directions", "of 32 with the covariance of the stream that it reads"),
    NumberColumn("random_low", "lowest β, random directions", "of the random direction that it takes most out of"),
)


@card(MODEL, "broad-erasers", ALL_WRITERS, order=30)
def broad_eraser_table(view: ModelView) -> HtmlTable:
    """A row for each broad eraser, the strongest first."""
    rows = broad_erasers(view.model.tables)
    of = [
        [f"{int(taken)} of {int(read)}" for taken, read in zip(rows[f"{kind}_taken"], rows[kind], strict=True)]
        for kind in ("heads", "writers")
        if len(rows)
    ]
    numbers = [numeric(rows, column.name).tolist() for column in _NUMBERS]
    return HtmlTable(
        "Broad erasers",
        "Heads that take more than τ (0.05 by default) out of at least half of the earlier heads because they read them, and "
        "of three. A ranking of writers misses such a head where others write back what it takes. It is listed only where its "
        "median β over the earlier heads is below that of every random direction of the stream: a head that takes "
        "as much out of these shrinks whatever it reads. β is of the direct path; the strongest stand first.",
        [
            HtmlColumn("head"),
            HtmlColumn("earlier heads", "that it takes more than τ out of, of those that it can read"),
            HtmlColumn("earlier writers", "heads, MLPs and embeddings, counted alike"),
            *(column.html for column in _NUMBERS),
        ],
        [list(row) for row in zip(rows["eraser"].astype(str), *of, *numbers, strict=True)] if len(rows) else [],
        empty=no_broad_eraser(view.model.tables),
        filter_by="head",
        tables=("erasers",),
    )


def no_broad_eraser(tables: Tables) -> str:
    """That there is none, and which head comes nearest."""
    if "erasers" not in tables:
        return "This was not measured: there is no table erasers."
    widest = widest_eraser(tables)
    if widest is None:
        return "No head is a broad eraser: none takes more than τ out of any earlier head."
    random = (
        f"; of random directions it takes more than τ out of {percent(widest['random_taken'])}, "
        f"with a mean β of {number(widest['random_mean'])}"
    )
    return (
        f"No head is a broad eraser. {widest['eraser']} takes more than τ out of the most earlier heads: "
        f"{int(widest['heads_taken'])} of {int(widest['heads'])}{random}."
    )
