"""Models of which nothing but their sizes and what is erased of their heads is known: what sizes are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import model_tables

_SUFFIXES = ("", "_centred")


def heads_model(
    name: str, shares: Sequence[float] | np.ndarray, layers: int, width: int = 64, half: float = 0.01, **about: object
) -> ModelTables:
    """A model with so many heads below its last layer, each with the interval share ± ``half``; means make no difference.

    Args:
        half: NaN for heads without intervals.
    """
    shares = np.asarray(shares, dtype=np.float64)
    labels = [f"L{at * (layers - 1) // len(shares)}H{at}" for at in range(len(shares))]
    ends = {"": shares, "_low": shares - half, "_high": shares + half}
    columns = {f"erased{suffix}{end}": values for suffix in _SUFFIXES for end, values in ends.items()}
    writers = pd.DataFrame({"writer": labels, **columns})
    known = {"n_layers": layers, "d_model": width, "n_params": layers * width**2, "base": name.partition("@")[0]}
    return model_tables({"name": name, **known, **about}, {"writers": writers})


def drawn(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Shares of so many heads from one distribution, skewed as those of real models, and moved by ``shift``."""
    return np.random.default_rng([16, seed, n]).gumbel(0.1, 0.12, size=n) + shift


def more_heads_alone(seed: int = 0, family: str = "toy") -> list[ModelTables]:
    """Two sizes whose heads are of one distribution: the larger model has eight times as many, and nothing else."""
    return [
        heads_model(f"{family}-2l", drawn(8, seed), 2),
        heads_model(f"{family}-3l", drawn(64, seed), 3),
    ]


def grown(family: str, seed: int, shift: float) -> list[ModelTables]:
    """Three sizes, of which each has heads that are erased by so much more than the one before."""
    return [
        heads_model(f"{family}-{layers}l", drawn(16 * layers, seed, shift * (layers - 2)), layers)
        for layers in (2, 3, 4)
    ]
