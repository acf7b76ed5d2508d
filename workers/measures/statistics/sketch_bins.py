"""Bins of a quantile sketch, and how wide their counts are; importable without torch."""

from __future__ import annotations

import math

BIN_WIDTH = math.log(2.0) / 89.0
HALF_BINS = 1536
N_BINS = 2 * HALF_BINS + 1


def count_bytes(n_tokens: int) -> int:
    """Bytes of the smallest integers that can count a shard's tokens: many sketches are a worker's largest state."""
    return 2 if n_tokens < 2**15 else 4
