"""Which writers are verified, and which heads as their erasers.

The user's word goes first: the writers that are named, else those that the scan ranks highest. Of each writer the group
that the user named for it, and the group that the scan's rule finds where it is another one; where there is neither, all
heads of later layers, as one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.records import Group, Target


def choose_targets(
    layout: Layout,
    writers: Mapping[str, Any] | None,
    named: tuple[Group, ...],
    writers_named: Sequence[str],
    top: int,
) -> tuple[Target, ...]:
    """The targets of verify, writers in the order in which they are named or ranked.

    Args:
        layout: the model's.
        writers: columns ``writer``, ``erasers`` and ``rank`` of the scan's table of that name; ``None`` without a scan.
        named: groups of erasers that the user named.
        writers_named: writers that the user named; each has heads in later layers.
        top: how many writers are taken where none is named.
    """
    found = {} if writers is None else dict(zip(writers["writer"], writers["erasers"], strict=True))
    chosen = list(writers_named) or _ranked(writers, top)
    return tuple(target for writer in chosen for target in _of_writer(layout, writer, found.get(writer), named))


def later_heads(layout: Layout, writer: str) -> tuple[str, ...]:
    """All heads of layers behind the writer's."""
    return tuple(head for head in layout.heads if layer_of(head) > layer_of(writer))


def _ranked(writers: Mapping[str, Any] | None, top: int) -> list[str]:
    if writers is None:
        return []
    ranks = sorted((rank, writer) for rank, writer in zip(writers["rank"], writers["writer"], strict=True) if rank >= 1)
    return [writer for _, writer in ranks[:top]]  # a rank that is NaN is not at least 1


def _of_writer(layout: Layout, writer: str, erasers: object, named: tuple[Group, ...]) -> list[Target]:
    groups = {_ordered(layout, group.erasers): "named" for group in named if group.writer == writer}
    if isinstance(erasers, str) and erasers:
        groups.setdefault(_ordered(layout, erasers.split("+")), "rule")
    groups = groups or {later_heads(layout, writer): "all"}
    return [Target(writer, heads, why) for heads, why in groups.items()]


def _ordered(layout: Layout, heads: Sequence[str]) -> tuple[str, ...]:
    return tuple(head for head in layout.heads if head in heads)
