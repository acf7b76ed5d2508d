"""What a slope of the total effect on the direct one says of an attribution; importable without torch, for tables and pages."""

from __future__ import annotations

import math

TRUST: tuple[tuple[float, str], ...] = (
    (0.75, "trust"),
    (0.25, "partly cancelled"),
    (math.nextafter(-0.25, 0.0), "cancelled"),
    (float("-inf"), "reversed"),
)
"""From which slope on which word holds."""
WORDS = tuple(word for _, word in TRUST)
"""From the most to the least that an attribution can be trusted."""


def trust_word(slope: float) -> str | None:
    """What a slope of the total effect on the direct one says of the attribution; ``None`` where there is no slope."""
    if math.isnan(slope):
        return None
    return next(word for least, word in TRUST if slope >= least)
