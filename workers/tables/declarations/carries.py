"""What a writer's output carries."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import GROUP_ERASER, WRITER, Table, count, number, text

TABLES = (
    Table(
        "carries",
        "How much of a writer's output position and token explain, and how much of it the erasers take back. Shares of "
        "variance are ε², by analysis of variance within a shard.",
        ("verify",),
        ("writer", "eraser", "part"),
        (
            WRITER,
            GROUP_ERASER,
            text(
                "part",
                "`all` of the output; of a head also `bos`, what it writes from the first position, and `non_bos`, the rest",
            ),
            number("power_share", "pooled coefficient β of the part onto the whole output"),
            number("variance", "of the part over tokens", "squared norm of the stream"),
            number("position_share", "share of the variance that the position explains"),
            number(
                "token_share",
                "share of the variance that the token explains, of one occurrence of each token in a prompt",
            ),
            number(
                "erased_by_group",
                "−β of the group's V-composed part of this part: the share of it that the group's heads take out",
            ),
            count("n", "measured tokens", "tokens"),
        ),
    ),
)
