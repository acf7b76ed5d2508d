"""Erasure by MLPs."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import N_TOKENS, WRITER, Table, quantiles, text, with_interval

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
            N_TOKENS,
        ),
    ),
)
