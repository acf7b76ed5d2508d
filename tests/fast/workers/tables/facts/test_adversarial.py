"""How often DLA is fooled is counted where places were not looked for."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.facts.adversarial import Fooled, fooled


def places() -> dict[str, pd.DataFrame]:
    rows = [
        ("L0H1", "given", None, "writer", "last", 0.1, True),
        ("L0H1", "found", "found", "writer", "last", 0.0, True),
        ("L0H1", "found", "shown", "writer", "last", 0.9, False),
        ("L0H1", "found", "shown", "writer", "all", 0.9, False),
        ("L0H1", "found", "shown", "other", "last", 0.0, True),
        ("L0H1", "found", "shown", "writer", "last", 0.1, True),
        ("L0H2", "found", "shown", "writer", "last", 1.0, False),
        ("L0H2", "found", "shown", "writer", "last", np.nan, None),
    ]
    columns = ["writer", "source", "half", "role", "inputs", "total_share", "fools"]
    return {"adversarial": pd.DataFrame(rows, columns=columns)}


def test_of_one_writer_and_of_all() -> None:
    assert fooled(places(), "shown", "L0H1") == Fooled(1, 2, 0.5)
    assert fooled(places(), "given", "L0H1") == Fooled(1, 1, 0.1)
    assert fooled(places(), "shown") == Fooled(1, 3, 0.9)


def test_without_places() -> None:
    for tables in ({}, {"adversarial": places()["adversarial"].iloc[:0]}):
        n, of, share = fooled(tables, "shown")
        assert (n, of) == (0, 0) and np.isnan(share)
