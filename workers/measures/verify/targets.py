"""Which writers are verified, and which heads as their erasers.

The user's word goes first: the writers that are named. Else those that the scan finds, each family up to ``top``, heads and
MLPs before embeddings, writers once each:

- the writers of which all attention paths clearly take most out;
- the writers of the strongest significant pairs: on the whole such a writer may be amplified, and has an eraser all the same;
- for each of the strongest broad erasers, the writer that it takes most out of.

What does not clear its null is not chosen, and where nothing does, nothing is. Of each writer the group that the user named
for it, and the group of the rule where it is another one; a pair's or broad eraser that is in neither is a group by itself.
Where there is no group at all, all heads of later layers are, as one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from erasure_sweep.workers.labels import Layout, kind_of
from erasure_sweep.workers.measures.verify.group_rule import group_of_shares, in_stream, later_heads
from erasure_sweep.workers.records import ChosenTargets, Group, Target
from erasure_sweep.workers.tables.facts.erasers import broad_erasers, most_taken_from, significant_erasures
from erasure_sweep.workers.tables.facts.erasure import clearly_erased, shares_of_heads
from erasure_sweep.workers.tables.values import Tables


class _Candidate(NamedTuple):
    writer: str
    reason: str
    eraser: str | None = None
    """The head for which it is chosen, if it is for one."""
    family: str = ""
    """Of a group of that head alone: ``pair`` or ``broad``."""


NOTHING = (
    "nothing, for nothing clears its null: of no writer is clearly anything erased, no pair of a writer and a later head is "
    "significant, and no head is a broad eraser"
)


def choose_targets(
    layout: Layout, tables: Tables, named: Sequence[Group], writers_named: Sequence[str], top: int
) -> ChosenTargets:
    """The targets of verify, writers in the order in which they are named or chosen.

    Args:
        layout: the model's.
        tables: of the scan.
        named: groups of erasers that the user named.
        writers_named: writers that the user named; each has heads in later layers.
        top: how many of each family are taken where none is named.
    """
    candidates = [_Candidate(writer, "named") for writer in writers_named] or [
        *_most_erased(tables, top),
        *_of_pairs(tables, top),
        *_of_broad(tables, top),
    ]
    of_writers: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        of_writers.setdefault(candidate.writer, []).append(candidate)
    targets = tuple(
        target for writer, own in of_writers.items() for target in _of_writer(layout, writer, own, tables, named)
    )
    reasons = (f"{writer} ({', '.join(each.reason for each in own)})" for writer, own in of_writers.items())
    return ChosenTargets(targets, ", ".join(reasons) or NOTHING)


def _most_erased(tables: Tables, top: int) -> list[_Candidate]:
    writers = clearly_erased(tables)["writer"].astype(str)
    return _first((_Candidate(writer, "most erased") for writer in writers), top)


def _of_pairs(tables: Tables, top: int) -> list[_Candidate]:
    """The strongest pair of each writer that has one."""
    strongest: dict[str, _Candidate] = {}
    for writer, eraser, _ in significant_erasures(tables):
        strongest.setdefault(writer, _Candidate(writer, f"strong pair with {eraser}", eraser, "pair"))
    return _first(strongest.values(), top)


def _of_broad(tables: Tables, top: int) -> list[_Candidate]:
    """Of each broad eraser the writer that it takes most out of."""
    found = []
    for eraser in broad_erasers(tables)["eraser"].astype(str)[:top]:
        candidates = (
            _Candidate(writer, f"broad eraser {eraser}", eraser, "broad") for writer in most_taken_from(tables, eraser)
        )
        found += _first(candidates, 1)
    return found


def _first(candidates: Iterable[_Candidate], top: int) -> list[_Candidate]:
    """The first few, embeddings last."""
    return sorted(candidates, key=lambda each: kind_of(each.writer) == "embeddings")[:top]


def _of_writer(
    layout: Layout, writer: str, candidates: Sequence[_Candidate], tables: Tables, named: Sequence[Group]
) -> list[Target]:
    groups = {in_stream(layout, group.erasers): "named" for group in named if group.writer == writer}
    if by_rule := group_of_shares(layout, shares_of_heads(tables, writer)):
        groups.setdefault(by_rule, "rule")
    for eraser, family in ((each.eraser, each.family) for each in candidates):
        if eraser and not any(eraser in heads for heads in groups):
            groups[(eraser,)] = family
    groups = groups or {later_heads(layout, writer): "all"}
    return [Target(writer, heads, why) for heads, why in groups.items()]
