"""Facts on broad erasers, against tables made by hand."""

from __future__ import annotations

import pandas as pd

from erasure_sweep.workers.tables.facts.erasers import broad_erasers, widest_eraser
from tests.support.fakes.erasers import erasers_table


def test_the_strongest_is_first() -> None:
    tables = {"erasers": erasers_table(L1H0=(2, -0.2, False), L1H1=(4, -0.9, True), L2H0=(6, -1.2, True))}
    assert broad_erasers(tables)["eraser"].tolist() == ["L2H0", "L1H1"]
    widest = widest_eraser(tables)
    assert widest is not None and widest["eraser"] == "L2H0"


def test_where_there_is_none() -> None:
    few = {"erasers": erasers_table(L1H0=(0, 0.0, False), L1H1=(1, -0.1, False))}
    assert broad_erasers(few).empty
    widest = widest_eraser(few)
    assert widest is not None and widest["eraser"] == "L1H1"
    none = {"erasers": erasers_table(L1H0=(0, 0.0, False))}
    assert widest_eraser(none) is None
    for tables in ({}, {"erasers": erasers_table()}, {"erasers": pd.DataFrame()}):
        assert broad_erasers(tables).empty and widest_eraser(tables) is None
