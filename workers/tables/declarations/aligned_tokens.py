"""Which next tokens a writer speaks for."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, number, text

TABLES = (
    Table(
        "aligned_tokens",
        "The 30 tokens that the writer's direct logits favour most, on average over the corpus.",
        ("verify",),
        ("writer", "rank"),
        (
            WRITER,
            count("rank", "1 for the most favoured token", "rank"),
            count("token_id", "the token", "token id"),
            text("token", "its text; null where the model has no tokenizer", nullable=True),
            number("mean_direct_logit", "mean of the writer's direct logit for it", "logit"),
        ),
    ),
)
