"""The table of broad erasers, and what stands there where there are none."""

from __future__ import annotations

import pandas as pd
import pytest

from erasure_sweep.dashboards.html.parts import HtmlTable
from erasure_sweep.dashboards.model.broad_erasers import broad_eraser_table
from erasure_sweep.dashboards.model.view import ModelView
from tests.support.fakes.erasers import erasers_table
from tests.support.fakes.tables import model_tables


def shown(table: pd.DataFrame | None) -> HtmlTable:
    return broad_eraser_table(ModelView(model_tables({"name": "m"}, {} if table is None else {"erasers": table})))


def test_broad_ones_are_listed_the_strongest_first() -> None:
    table = shown(erasers_table(L1H0=(2, -0.2, False), L1H1=(4, -0.9, True), L2H0=(6, -1.2, True)))
    assert [row[:4] for row in table.rows] == [["L2H0", "6 of 8", "6 of 10", -1.2], ["L1H1", "4 of 8", "4 of 10", -0.9]]
    assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (erasers_table(L1H0=(2, -0.2, False)), "L1H0 takes more than τ out of the most earlier heads: 2 of 8"),
        (erasers_table(L1H0=(0, 0.0, False)), "none takes more than τ out of any earlier head"),
        (erasers_table(), "none takes more than τ out of any earlier head"),
        (None, "not measured"),
    ],
)
def test_where_there_is_none_that_is_said(table: pd.DataFrame | None, words: str) -> None:
    empty = shown(table)
    assert empty.rows == [] and words in empty.empty
