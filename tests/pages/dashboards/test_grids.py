"""Long tables as matrices."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.grids import grid_of
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, components, fake_model, residual

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestGrid:
    def test_every_cell_is_the_tables_and_the_rest_is_nan(self, model: ModelTables) -> None:
        grid, table = components(model), model.tables["component_projection"]
        assert grid.columns == list(Layout(4, 8).components)
        for statistic in ("q25", "median", "beta_centred"):
            expected = cell(table, "component", "L0H2", "MLP3", statistic)
            assert grid.row("L0H2", statistic)[grid.column_index["MLP3"]] == expected
        own = grid.row("L0H2", "median")[grid.column_index["L0H2"]]
        assert np.isnan(own)
        assert np.isfinite(grid.row("L0H2", "median")).sum() == len(grid.columns) - 1

    def test_rows_in_another_order_change_nothing(self, model: ModelTables) -> None:
        table = model.tables["residual_projection"]
        shuffled = grid_of(table.sample(frac=1, random_state=0), "state")
        assert shuffled.writers == residual(model).writers
        np.testing.assert_array_equal(shuffled.values["median"], residual(model).values["median"])

    def test_a_zero_writer_is_not_measured(self, model: ModelTables) -> None:
        grid = residual(model)
        assert ZERO in grid.writers
        assert ZERO not in grid.measured
        assert len(grid.measured) == len(grid.writers) - 1

    def test_no_table_or_no_columns_is_an_empty_grid(self) -> None:
        for table in (None, pd.DataFrame(), pd.DataFrame({"writer": ["embed"]})):
            grid = grid_of(table, "state")
            assert (grid.writers, grid.columns, grid.measured) == ([], [], [])
            assert len(grid.row("embed", "median")) == 0
