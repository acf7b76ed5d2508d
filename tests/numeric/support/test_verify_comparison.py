"""What holds verify against its oracle: a difference in any column of any table is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.records import Target
from tests.support.models.random_models import random_lean
from tests.support.oracle.compare_verify import JUDGED, KEYS, assert_table_agrees, assert_verify_agrees
from tests.support.oracle.verify import COLUMNS, verify_tables

SHIFTED = [
    (table, column)
    for table, columns in COLUMNS.items()
    for column in columns
    if column not in (*KEYS[table], "resolution", "text", "top", "second", "token")
]


@pytest.fixture(scope="module")
def oracle() -> dict[str, pd.DataFrame]:
    config, weights, _ = random_lean(91, n_layers=2, n_heads=2, d_model=16, n_ctx=40)
    # of few tokens, so that prompts have some in common
    tokens = np.random.default_rng(0).integers(0, 20, (6, 40))
    targets = [Target("L0H1", ("L1H0", "L1H1"), "rule"), Target("embed", ("L0H0",), "named")]
    return verify_tables(config, weights, tokens, targets, 12, block=2, given=[[5, 6, 7]], rotated_prompts=4)


def changed(value: Any) -> Any:
    """Something else in a value's place."""
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, str):
        return f"{value} instead"
    if isinstance(value, int | np.integer):
        return value + 1
    return value + 0.05 * max(1.0, abs(value))


def copies(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: table.copy() for name, table in tables.items()}


def test_the_same_tables_agree(oracle: dict[str, pd.DataFrame]) -> None:
    assert_verify_agrees(copies(oracle), oracle)


FIRST_OF_EACH_TABLE = list({table: (table, column) for table, column in reversed(SHIFTED)}.values())


@pytest.mark.parametrize(
    ("table", "column"),
    [pytest.param(*each, marks=[pytest.mark.nightly] * (each not in FIRST_OF_EACH_TABLE)) for each in SHIFTED],
)
def test_another_value_is_seen(oracle: dict[str, pd.DataFrame], table: str, column: str) -> None:
    fast = copies(oracle)
    row = int(np.flatnonzero(fast[table][column].notna())[-1])
    values = fast[table][column].astype(object)
    values.iloc[row] = changed(values.iloc[row])
    fast[table][column] = values
    with pytest.raises(AssertionError, match=f"{table}|trust of"):
        if column in JUDGED.get(table, []) or column == "rank":
            assert_verify_agrees(fast, oracle)
        assert_table_agrees(table, fast[table], oracle[table])


@pytest.mark.parametrize("table", COLUMNS)
def test_a_missing_value_is_seen(oracle: dict[str, pd.DataFrame], table: str) -> None:
    fast, column = copies(oracle), next(column for name, column in SHIFTED if name == table)
    row = int(np.flatnonzero(fast[table][column].notna())[0])
    values = fast[table][column].astype(object)
    values.iloc[row] = None
    fast[table][column] = values
    with pytest.raises(AssertionError):
        assert_verify_agrees(fast, oracle)


@pytest.mark.parametrize("table", COLUMNS)
def test_rows_and_columns_that_are_missing_or_repeated_are_seen(oracle: dict[str, pd.DataFrame], table: str) -> None:
    rows = oracle[table]
    for other in (rows.iloc[1:], pd.concat([rows, rows.iloc[:1]]), rows.drop(columns=rows.columns[-2])):
        with pytest.raises(AssertionError, match=table):
            assert_table_agrees(table, other, oracle[table])


def test_every_table_is_compared(oracle: dict[str, pd.DataFrame]) -> None:
    for table in COLUMNS:
        with pytest.raises(AssertionError, match=table):
            assert_verify_agrees(copies(oracle) | {table: oracle[table].iloc[1:]}, oracle)
