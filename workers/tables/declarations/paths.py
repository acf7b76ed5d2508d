"""What is erased of every writer over all attention paths, and what is left of its attribution."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, text, with_interval

TABLES = (
    Table(
        "erasure_shares",
        "Every writer and every head of every later layer, each later layer's `attn{l}` (its heads together) and `later`, all "
        "later heads together. The writer's output is carried through all later attention, patterns, scales and MLPs at their "
        "clean values, on the first `paths_prompts` of the scan's prompts. A share is −β of what the head adds on the way; "
        "shares of heads add up to `attn{l}` and to `later`, which is all that is erased: 1 − β of what arrives at the end. "
        "Erasers in series share what they take out, where the direct paths of `v_composition` count it once for each. "
        "Intervals are by leaving out one prompt.",
        ("scan",),
        ("writer", "eraser"),
        (
            WRITER,
            text("eraser", "the later head, `attn{l}`, or `later`"),
            *with_interval(
                "share", "the share of the writer's output that the eraser takes out; negative where it adds to it"
            ),
            *with_interval(
                "share_centred",
                "the same of what varies: the writer's mean over the scan is taken from what is carried, and from what that "
                "is set against",
            ),
            *with_interval(
                "share_first",
                "what the writer's output at position 0 makes the eraser take out at the measured positions, in the same unit; "
                "null where `first_position` is true",
            ),
            count("prompts", "on which `share` is measured, where the writer writes anything", "prompts"),
            count("prompts_centred", "of them, on which `share_centred` and `share_first` are", "prompts"),
        ),
    ),
    Table(
        "net_dla",
        "Every writer that later heads can read: the line of its net DLA, that of what all later attention leaves of it (as in "
        "`erasure_shares`), on its DLA, over tokens. Where nothing is taken back the slope is 1, where all is, 0.",
        ("scan",),
        ("writer",),
        (
            WRITER,
            *with_interval("r", "correlation of the two", "correlation"),
            *with_interval("slope", "slope of the net DLA on the DLA"),
            count("n", "measured tokens", "tokens"),
        ),
    ),
)
