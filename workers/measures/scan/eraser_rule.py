"""The eraser rule: which later heads count as erasers of a writer, and which only oppose it.

A head takes a writer away where its projection ratio onto the writer has a median of at most −τ and an upper quartile below
zero. By what the head writes because it read the writer (the V-composed part), it is an eraser; by its whole output alone,
it is opposing.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from numpy import ndarray


def takes_away(
    median: Float[ndarray, "head"], upper_quartile: Float[ndarray, "head"], tau: float
) -> Bool[ndarray, "head"]:
    """Which heads take a writer away, by their projection ratios onto it; NaN takes nothing."""
    return (median <= -tau) & (upper_quartile < 0)
