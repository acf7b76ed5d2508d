"""What later heads write along a writer because they read it."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import N_TOKENS, WRITER, Table, flag, number, quantiles, text, with_interval

TABLES = (
    Table(
        "v_composition",
        "Every writer and every head of every later layer, each later layer's `attn{l}` (heads and bias) and `later`, all "
        "later heads together; for a writer named with `--writer` also the group named with `--erasers`. The V-composed "
        "part of a head is its output minus its output with the writer subtracted from its value input. The writer is its "
        "output from position 1 on, unless `first_position` is true.",
        ("scan",),
        ("writer", "eraser"),
        (
            WRITER,
            text("eraser", "the later head, `attn{l}`, `later`, or a group such as `L2H2+L2H3`"),
            *quantiles("PR of the eraser's output onto the writer", "clean_"),
            *quantiles("the same with the writer subtracted from the eraser's value input", "patched_"),
            *quantiles("PR of the V-composed part: clean minus patched, token by token", "v_composed_"),
            *with_interval(
                "beta", "pooled coefficient β of the V-composed part; heads add up to `attn{l}` and `later`"
            ),
            number("beta_centred", "its centred twin, every component's mean over all tokens taken out first"),
            number(
                "beta_first",
                "β of what the eraser writes because of the writer's output at position 0, over the same power; `beta` + "
                "`beta_first` is that of the writer's whole output. Null where `first_position` is true",
            ),
            number(
                "p",
                "one-sided p-value of the t-test over shards that the mean of the shards' `beta` is at least −τ: small means "
                "that the head takes more than τ because it reads the writer; null with fewer than two shards, or where "
                "all have the same `beta`",
                "probability",
            ),
            flag(
                "significant",
                "whether the pair is a discovery of Benjamini and Hochberg's procedure at 5 % over all pairs of a writer "
                "and a single later head of the model; null for sums and groups, and where there is no `p`",
                nullable=True,
            ),
            flag(
                "significant_by",
                "the same by Benjamini and Yekutieli's procedure, which holds however the tests depend on each other and "
                "finds fewer",
                nullable=True,
            ),
            N_TOKENS,
        ),
    ),
)
