"""What a writer is worth to the loss."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Column, Table, count, number, quantiles, text, with_interval


def loss_columns(increase: str) -> tuple[Column, ...]:
    """The clean loss and by how much it rises.

    Args:
        increase: what its mean increase is.
    """
    return (
        number("clean_loss", "mean loss of the clean run", "nats"),
        *with_interval("increase_mean", increase, "nats"),
        *quantiles("the increase over tokens", unit="nats"),
        count("n", "tokens at which the loss was taken, at most 128 of each prompt", "tokens"),
    )


TABLES = (
    Table(
        "ablation_loss",
        "What it costs to replace a writer's output by that of another prompt.",
        ("verify",),
        ("writer", "ablation"),
        (
            WRITER,
            text("ablation", "taken from the `equal_position` or a `random_position` of the other prompt"),
            *loss_columns("mean increase of the loss"),
        ),
    ),
)
