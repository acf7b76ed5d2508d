"""Erasure by MLPs."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import N_TOKENS, WRITER, Table, number, quantiles, text, with_interval

TABLES = (
    Table(
        "mlp_erasure",
        "How the output of a later MLP along the writer changes when the writer is taken out of its input, the scale of the "
        "LayerNorm there kept.",
        ("verify",),
        ("writer", "component"),
        (
            WRITER,
            text("component", "the MLP; of a head also that of its own layer"),
            *quantiles("PR of the MLP's output onto the writer", "clean_"),
            *quantiles("the same with the writer taken out of its input", "patched_"),
            *quantiles("PR of the difference, clean minus patched", "read_"),
            *with_interval("beta", "pooled coefficient β of the difference"),
            *(
                number(
                    f"placebo_{which}",
                    f"{which} β of the same for the writer's placebos, its output turned at random as the stream varies, each "
                    "onto itself, at no more than 128 positions of a prompt",
                )
                for which in ("lowest", "median", "highest")
            ),
            number("siblings_median", "median β of the same for the writer's siblings, each onto itself"),
            text(
                "verdict",
                "as that of `eraser_group`, of this MLP alone: `erased`, `shrinks everything`, `erased, with its siblings` or "
                "`not found`; null without an interval or placebos",
                nullable=True,
            ),
            N_TOKENS,
        ),
    ),
)
