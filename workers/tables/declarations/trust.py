"""Whose direct logit attribution can be trusted."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, interval, number, text

_RECOMPUTED = "with the scale of the final LayerNorm computed anew"

TABLES = (
    Table(
        "dla_trust",
        "Every writer: its output is replaced by another prompt's at random positions, and what happens to the difference of "
        "the logits of the top two tokens is set against what DLA says should happen. The slope is the share of its DLA that "
        "survives what comes later.",
        ("verify",),
        ("writer",),
        (
            WRITER,
            number("dla_mean_abs", "mean size of its DLA", "logit"),
            number("net_mean_abs", "mean size of its net DLA: with the V-composed parts of all later heads", "logit"),
            number("effect_mean_abs", "mean size of the total effect of resampling it", "logit"),
            number("net_slope", "slope of its net DLA on its DLA"),
            number("net_r", "correlation of the same two", "correlation"),
            number("effect_slope", "slope of the total effect of resampling on the direct one"),
            number("effect_r", "correlation of the same two", "correlation"),
            *interval("", "`effect_slope`"),
            number("effect_slope_recomputed", f"`effect_slope` {_RECOMPUTED}"),
            number("effect_r_recomputed", f"`effect_r` {_RECOMPUTED}", "correlation"),
            text(
                "trust",
                "the word for `effect_slope`: `trust` from 0.75, `partly cancelled` from 0.25, `cancelled` above −0.25, "
                "`reversed` from there down; null where there is no slope",
                nullable=True,
            ),
            count("n", "measured tokens", "tokens"),
        ),
    ),
)
