"""How the direct logit attribution (DLA) of erasers goes with that of the writer."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import GROUP_ERASER, WRITER, Table, count, interval, number, text

TABLES = (
    Table(
        "dla_correlation",
        "The DLA of the eraser against that of the writer, over all measured tokens: for the pairs of `v_composition`, and "
        "in rows of verify for the verified groups. DLA is an output's share of the difference of the logits of the two "
        "most likely next tokens.",
        ("scan", "verify"),
        ("writer", "eraser", "effect", "stage"),
        (
            WRITER,
            text("eraser", "the later head, `attn{l}`, `later`, or a group such as `L2H2+L2H3`"),
            text(
                "effect",
                "of the eraser: `full`, its whole output, or `v_composition`, its V-composed part; of verify also "
                "`value_input`, `layer_input` and `downstream`, what it loses when the writer is taken out there, and "
                "`without_pattern`, what its OV circuits make of the writer at the same position",
            ),
            number("r", "Pearson's correlation; null where one side is constant", "correlation"),
            number(
                "spearman",
                "rank correlation, from at most 1,000 tokens (those with the lowest hash of seed, prompt and position)",
                "correlation",
            ),
            *interval("spearman", "`spearman`, from leaving the same prompts out of its tokens", "correlation"),
            number(
                "slope", "of the least squares line of the eraser's DLA on the writer's; perfect erasure has slope −1"
            ),
            number("intercept", "of the same line", "logit"),
            *interval(
                "",
                "`r`, from leaving out one prompt at a time, in the scan one group of blocks of prompts, in Fisher's z",
                "correlation",
            ),
            *interval("slope", "`slope`, from the same"),
            count("n", "measured tokens", "tokens"),
            text("stage", "`scan`, or `verify`: rows of verified groups, measured on its prompts"),
        ),
    ),
    Table(
        "dla_points",
        "A seeded sample of the tokens behind the rows of verify in `dla_correlation`.",
        ("verify",),
        ("writer", "eraser", "effect", "prompt", "position"),
        (
            WRITER,
            GROUP_ERASER,
            text("effect", "as in `dla_correlation`"),
            count("prompt", "of the token, in the corpus", "index"),
            count("position", "of the token, in its prompt", "index"),
            number("writer_dla", "the writer's DLA at the token", "logit"),
            number("eraser_dla", "the effect of the erasers at the token", "logit"),
        ),
    ),
)
