"""Tables at the end of a run stay readable for models of hundreds of heads."""

from __future__ import annotations

import pytest

from erasure_sweep.sweep.commands.run_summary import _heads


@pytest.mark.parametrize(
    ("erasers", "shown"),
    [
        ([], "–"),
        (["L1H0", "L2H1"], "L1H0 L2H1"),
        ([f"L{n}H0" for n in range(12)], " ".join(f"L{n}H0" for n in range(12))),
        ([f"L{n}H0" for n in range(81)], " ".join(f"L{n}H0" for n in range(12)) + " and 69 more"),
    ],
)
def test_of_dozens_of_erasers_the_first_are_named(erasers: list[str], shown: str) -> None:
    assert _heads(erasers) == shown
