"""Means and co-moments of two sets of tokens, taken together without going through the tokens again.

With d = mean_b − mean_a and n = n_a + n_b (Chan, Golub and LeVeque 1979, equations 2.1),

    mean = mean_a + d n_b / n        Σ (x − mean)(y − mean) = Σ_a + Σ_b + d_x d_y n_a n_b / n.
"""

from __future__ import annotations

from typing import Any, NamedTuple

CONSTANT = 1e-9
"""Share of the squares that must vary over tokens for a line through them: below it there is only rounding."""


class MergedSizes(NamedTuple):
    """Sizes of two sets together, as the formulas need them."""

    n: Any
    share: Any
    """n_b / n."""
    weight: Any
    """n_a n_b / n: what the product of two distances between means adds to a co-moment."""

    @classmethod
    def of(cls, n_a: Any, n_b: Any) -> MergedSizes:
        """Of the sizes of both."""
        n = n_a + n_b
        return cls(n, n_b / n, n_a * n_b / n)

    def mean(self, a: Any, b: Any) -> Any:
        """Mean of both sets."""
        return a + (b - a) * self.share
