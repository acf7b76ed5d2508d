"""Columns as arrays, whatever is in them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.values import numeric

ZERO = "L1H3"


def test_nulls_of_any_dtype_become_nan() -> None:
    table = pd.DataFrame({"a": [None, None], "b": ["x", 2], "c": pd.array([1, None], dtype="Int64")})
    assert np.isnan(numeric(table, "a")).all()
    np.testing.assert_array_equal(numeric(table, "b"), [np.nan, 2.0])
    np.testing.assert_array_equal(numeric(table, "c"), [1.0, np.nan])
    assert np.isnan(numeric(table, "missing")).all()
