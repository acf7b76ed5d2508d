"""Verified erasers: each head, their group, and the nulls beside them."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import (
    GROUP_ERASER,
    N_TOKENS,
    WRITER,
    Table,
    flag,
    interval,
    number,
    quantiles,
    text,
    with_interval,
)

TABLES = (
    Table(
        "eraser_group",
        "Each eraser of a verified group and, last, the group. β is of the V-composed part, what is written because the "
        "writer is read: the writer itself, and what is left of it behind the group's heads of earlier layers. Heads add up "
        "to the group.",
        ("verify",),
        ("writer", "group", "eraser"),
        (
            WRITER,
            text("group", "the group, as other tables name it in `eraser`"),
            text("eraser", "one of its heads, or in the last row the group itself"),
            text(
                "chosen",
                "why this group: `named` by the user, by the `rule` of the scan, or `all` later heads where the rule finds "
                "none",
            ),
            flag("held_out", "whether the prompts are others than those that the erasers were chosen on"),
            *quantiles("PR of the eraser's output onto the writer", "clean_"),
            *quantiles(
                "the same with the writer, and what the group made of it, subtracted from its value input", "patched_"
            ),
            *quantiles("PR of the V-composed part, clean minus patched", "v_composed_"),
            *interval("clean_median", "`clean_median`"),
            *interval("patched_median", "`patched_median`"),
            *with_interval("beta", "pooled coefficient β of the V-composed part"),
            number(
                "position_share",
                "of the group: β of its V-composed part of the writer's output at the same position of another prompt, as a "
                "share of `beta`: what position alone explains",
            ),
            text(
                "verdict",
                "of the group, by β with its whole 95 % interval: `erased`, below −τ and below every placebo; `erased, with "
                "its siblings`, the same, and half of the siblings lose at least half as much; `shrinks everything`, below "
                "−τ, and half of the placebos lose at least half as much; else `not found`; null without intervals",
                nullable=True,
            ),
            N_TOKENS,
        ),
    ),
    Table(
        "nulls",
        "What the numbers of a group would be where nothing is erased, beside what was measured.",
        ("verify",),
        ("writer", "eraser", "null", "direction", "of"),
        (
            WRITER,
            GROUP_ERASER,
            text(
                "null",
                "`measured`: none, the number itself; `placebo`: the writer's output turned at random within what the stream "
                "varies along, and `siblings`: the other heads of the writer's layer, of an embedding the other one, each "
                "with erasers of its own and onto itself; `shuffled`: onto the writer's output from other prompts and "
                "positions; `position`: onto that at the same position of another prompt, which is no null but what "
                "position alone explains",
            ),
            text("direction", "of `siblings` the sibling, of `placebo` the number of the draw, else empty"),
            text("of", "which number it questions: `clean`, of the whole output, or `v_composed`"),
            text(
                "heads",
                "the group: for a sibling or placebo as many heads as the writer's group has, those that take out most of it "
                "on the scan's prompts",
            ),
            *quantiles("PR over tokens"),
            *with_interval("beta", "pooled coefficient β"),
            N_TOKENS,
        ),
    ),
)
