"""The group's rule: which later heads are verified together as a writer's erasers.

A head's share is how much of the writer it takes out on all attention paths (table ``erasure_shares``); the shares of all
later heads add up to ``erased``. The group is the heads with the largest positive shares, until they hold 90 % of the sum of
the positive ones, so that erasure which many weak heads share out is found. What stands in a writer's place as a null gets
a group of equal size by the same rule: the best of many heads look like erasers of anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.records import NullErasers, Target

HELD = 0.9
"""How much of the sum of positive shares a group holds."""


def strongest_erasers(shares: Mapping[str, float]) -> tuple[str, ...]:
    """The heads that take something out, the largest share first; of equal ones those that come first."""
    positive = [head for head, share in shares.items() if share > 0]
    return tuple(sorted(positive, key=lambda head: -shares[head]))


def group_of_shares(layout: Layout, shares: Mapping[str, float]) -> tuple[str, ...]:
    """The group's heads in the order of the stream; none where no head takes anything out.

    Args:
        shares: of the writer's later heads.
    """
    ordered = strongest_erasers(shares)
    wanted, held, group = HELD * sum(shares[head] for head in ordered), 0.0, []
    for head in ordered:
        if held >= wanted:
            break
        group.append(head)
        held += shares[head]
    return in_stream(layout, group)


def null_group(layout: Layout, target: Target, null: NullErasers) -> tuple[str, ...]:
    """The heads that are to a null what the target's are to its writer, in the order of the stream."""
    return target.erasers if target.chosen == "all" else in_stream(layout, null.heads[: len(target.erasers)])


def later_heads(layout: Layout, writer: str) -> tuple[str, ...]:
    """All heads of layers behind the writer's."""
    return tuple(head for head in layout.heads if layer_of(head) > layer_of(writer))


def in_stream(layout: Layout, heads: Sequence[str]) -> tuple[str, ...]:
    """Some heads in the order of the stream."""
    wanted = set(heads)
    return tuple(head for head in layout.heads if head in wanted)
