"""The pass in which a group's heads do not read the writer, beside the clean one."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import (
    GROUP_ERASER,
    N_TOKENS,
    WRITER,
    Table,
    count,
    number,
    quantiles,
    text,
    with_interval,
)
from erasure_sweep.workers.tables.declarations.ablation_loss import loss_columns

_PATCH = text(
    "patch", "whose value inputs lack the writer: `group`, the group's heads, or `layer`, all of their layers"
)

TABLES = (
    Table(
        "patched_residual_projection",
        "What remains of the writer in each state, clean and with the writer's output taken from the value inputs of the "
        "erasers, everything behind computed anew.",
        ("verify",),
        ("writer", "eraser", "patch", "state"),
        (
            WRITER,
            GROUP_ERASER,
            _PATCH,
            text("state", "the state that is projected onto the writer"),
            *quantiles("PR of the state onto the writer", "clean_"),
            *quantiles("the same in the patched pass", "patched_"),
            number("clean_beta", "pooled coefficient β of the state"),
            number("patched_beta", "the same in the patched pass"),
            N_TOKENS,
        ),
    ),
    Table(
        "later_use",
        "What components behind the last erasing layer's attention write along the writer, clean and in the patched pass.",
        ("verify",),
        ("writer", "eraser", "component"),
        (
            WRITER,
            GROUP_ERASER,
            text("component", "the component behind the erasers"),
            *quantiles("PR of the component's output onto the writer", "clean_"),
            *quantiles("the same in the patched pass", "patched_"),
            *with_interval("clean_beta", "pooled coefficient β of the component"),
            number("patched_beta", "the same in the patched pass"),
            *with_interval(
                "response",
                "`clean_beta` − `patched_beta`: what it writes along the writer because the group erases, above 0 in its place",
            ),
            N_TOKENS,
        ),
    ),
    Table(
        "patched_loss",
        "What erasing is worth to the model: how much worse it predicts the next token in the patched pass, in which the "
        "erasers do not read the writer.",
        ("verify",),
        ("writer", "eraser", "patch"),
        (
            WRITER,
            GROUP_ERASER,
            _PATCH,
            *loss_columns("mean of the patched pass' loss minus the clean one's: above 0, erasing helps"),
        ),
    ),
    Table(
        "position_profile",
        "A group's clean and patched output by position: bins of positions that double in width.",
        ("verify",),
        ("writer", "eraser", "first_position"),
        (
            WRITER,
            GROUP_ERASER,
            count("first_position", "of the bin", "index"),
            count("last_position", "of the bin", "index"),
            *quantiles("PR of the group's output onto the writer", "clean_"),
            *quantiles("the same with the writer subtracted from its value inputs", "patched_"),
            number("writer_norm", "root mean square of the writer's norm", "norm of the stream"),
            N_TOKENS,
        ),
    ),
)
