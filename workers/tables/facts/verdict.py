"""The verdict on a group of erasers, from its coefficient and those of the nulls that stand in the writer's place.

All are β of what a group writes because it reads something, onto that thing: −1 takes out all of it. Each null has a group
of its own, of equal size and found on the scan's prompts by the same rule, so that what the best of many heads do to any
vector of the stream is in it. Of as many things as there are placebos one is taken out most, if only by a hair: what is erased
loses more than the median placebo by at least what counts as erasure (τ).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ERASED = "erased"
SHRINKS = "shrinks everything"
WITH_SIBLINGS = "erased, with its siblings"
NOT_FOUND = "not found"

FOUND = (ERASED, WITH_SIBLINGS)
"""Words by which a writer is erased."""

ALIKE = 0.5
"""Nulls are taken out as the writer is where half of them lose at least this share of what the writer loses."""


def verdict(beta: float, high: float, tau: float, placebos: Sequence[float], siblings: Sequence[float]) -> str | None:
    """The word; ``None`` where there is no interval to tell by, or no placebo.

    Args:
        beta, high: of the writer, and the upper end of its 95 % interval.
        placebos, siblings: β of each.
    """
    placebos, siblings = ([value for value in values if np.isfinite(value)] for values in (placebos, siblings))
    if np.isnan(high) or not placebos:
        return None
    if not high < -tau:
        return NOT_FOUND
    if not (high < min(placebos) and high < float(np.median(placebos)) - tau):
        return SHRINKS if _alike(placebos, beta, tau) else NOT_FOUND
    return WITH_SIBLINGS if _alike(siblings, beta, tau) else ERASED


def _alike(nulls: Sequence[float], beta: float, tau: float) -> bool:
    """Whether nulls are taken out as the writer is."""
    return len(nulls) > 0 and bool(np.median(nulls) < min(-tau, ALIKE * beta))
