"""Every head in one row: out of how many earlier writers it takes something, beside random directions."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import Table, count, flag, number, text

TABLES = (
    Table(
        "erasers",
        "One row for each head, as a reader of all earlier writers: how many it takes more than τ out of because it reads "
        "them (`beta` of `v_composition` below −τ), and the same of 32 random directions that have the covariance of the "
        "stream that the head reads, at every token the same (which is where attention passes on most).",
        ("scan",),
        ("eraser",),
        (
            text("eraser", "the head"),
            count("writers", "earlier writers with a `beta`: heads, MLPs and embeddings", "writers"),
            count("writers_taken", "of these, those that it takes more than τ out of", "writers"),
            count("heads", "earlier heads with a `beta`", "heads"),
            count("heads_taken", "of these, those that it takes more than τ out of", "heads"),
            number(
                "beta_sum",
                "sum of the `beta` of those writers that it takes more than τ out of; 0 where there are none",
            ),
            number("beta_mean", "their mean; null where there are none"),
            number("head_median", "median `beta` over all earlier heads; null where there are none"),
            number("random_mean", "mean β of what it writes because it reads a random direction"),
            number("random_low", "the lowest of these: of the random direction that it takes most out of"),
            number("random_taken", "share of the random directions that it takes more than τ out of"),
            flag(
                "broad",
                "whether it is a broad eraser: it takes more than τ out of at least half of the earlier heads, and of three, "
                "and `head_median` is below the β of every random direction",
            ),
        ),
    ),
)
