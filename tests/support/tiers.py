"""Which tier a parameter of a test belongs to."""

from __future__ import annotations

from typing import Any

import pytest


def seeds(everywhere: int, nightly: int) -> list[Any]:
    """Seeds for ``pytest.mark.parametrize``: the first ones in every run, all of them with ``make soak`` as well.

    Args:
        everywhere: how many `make test` takes.
        nightly: how many there are in all.
    """
    return [pytest.param(seed, marks=[pytest.mark.nightly] * (seed >= everywhere)) for seed in range(nightly)]
