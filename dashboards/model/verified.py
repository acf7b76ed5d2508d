"""What was verified, in words: the erasers of a writer, and what was found of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erasure_sweep.dashboards.wording import eraser_name, number, percent, with_interval
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.verdict import FOUND, SHRINKS, WITH_SIBLINGS
from erasure_sweep.workers.tables.facts.verified import Verdict, VerifiedGroup


def group_name(group: VerifiedGroup) -> str:
    """The erasers as figures and tables show them, the strongest first."""
    return eraser_name("+".join(group.heads))


def pair_name(group: VerifiedGroup) -> str:
    """A writer and its erasers, as menus and tables show them."""
    return f"{group.writer} ← {group_name(group)}"


def first_head(writers: Sequence[str]) -> int:
    """Which of some writers by rank is shown first: the first head, for heads are what most ask about."""
    return next((at for at, writer in enumerate(writers) if is_head(writer)), 0)


def verdict_line(found: Verdict) -> str:
    """The verdict in a sentence, as the page's opening says it."""
    writer, group = found.group.writer, group_name(found.group)
    if not np.isfinite(found.beta.value):
        return f"{writer}: nothing was measured of {group}, for its output is zero or was not read."
    held_out = {True: "held-out pooled β", False: "pooled β, on the scan's own prompts,", None: "pooled β"}[
        found.held_out
    ]
    numbers = f"{held_out} {with_interval(*found.beta)}"
    # a share of what is not there would say nothing
    is_there = found.word in (*FOUND, None)
    has_share = np.isfinite(found.position_share) and is_there
    share = f"; position alone explains {percent(found.position_share)} of this erasure" if has_share else ""
    share = _beside_nulls(found) + share
    if found.word in FOUND:
        with_siblings = " together with its siblings" if found.word == WITH_SIBLINGS else ""
        return f"{writer} is erased{with_siblings} by {group}: {numbers}{share}."
    if found.word == SHRINKS:
        return f"{writer}: {group} shrinks everything, not this writer alone: {numbers}{share}."
    if found.word is None:
        reason = (
            ", for fewer than two prompts give no interval"
            if not np.isfinite([found.beta.low, found.beta.high]).all()
            else ""
        )
        return f"{writer}: no verdict on {group}{reason}: {numbers}{share}."
    if found.chosen == "all":
        return (
            f"{writer}: erasure {found.word}, no head takes anything out; all later heads together: {numbers}{share}."
        )
    return f"{writer}: erasure by {group} {found.word}: {numbers}{share}."


def _beside_nulls(found: Verdict) -> str:
    """What groups of equal size take out of placebos and siblings."""
    nulls, placebos, siblings = "", found.placebos, found.siblings
    if np.isfinite(placebos.lowest):
        nulls += f"; of its placebos the one taken out most has {number(placebos.lowest)}, the median {number(placebos.median)}"
    if np.isfinite(siblings.lowest):
        reach = f"its siblings reach {number(siblings.lowest)}"
        nulls += f"; {reach if siblings.lowest < 0 else 'no sibling is taken out'}"
    return nulls


def medians_line(found: Verdict) -> str:
    """How the group's median moves when it cannot read the writer; nothing where that was not measured."""
    if not np.isfinite(found.median).all():
        return ""
    clean, patched = number(found.median.clean), number(found.median.patched)
    return f" Median over tokens of the group {clean}, {patched} without reading the writer."
