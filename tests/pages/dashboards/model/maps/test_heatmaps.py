"""All writers at once: every one of a small model, layers of a large one."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.model.maps.heatmaps import heatmap, plot_heatmap
from erasure_sweep.dashboards.plots.layer_rows import TOP_ROWS
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, components, fake_model, residual

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


class TestHeatmap:
    def test_all_writers_when_they_fit(self, model: ModelTables) -> None:
        shown = heatmap(residual(model), top_writers(model.tables))
        assert not shown.aggregated
        assert shown.rows == list(Layout(4, 8).writers)
        assert shown.columns == list(Layout(4, 8).states)
        assert shown.median[0, -1] == cell(
            model.tables["residual_projection"], "state", "embed", "resid_post3", "median"
        )
        figure = plot_heatmap(shown, "state")
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)

    def test_layers_and_top_writers_when_they_do_not(self, model: ModelTables) -> None:
        grid, top = components(model), top_writers(model.tables)
        shown = heatmap(grid, top, max_writers=20)
        assert shown.aggregated
        layers = [f"layer {layer} (median)" for layer in range(4)]
        assert shown.rows == ["embeddings", *layers, *top[:TOP_ROWS]]
        assert shown.columns == [c for c in grid.columns if c.startswith(("attn", "MLP")) or c.endswith("embed")]
        column = grid.column_index["attn3"]
        layer_1 = [
            grid.values["median"][grid.row_index[w], column] for w in grid.writers if w[:2] == "L1" or w == "MLP1"
        ]
        own = grid.column_index["attn1"]
        assert shown.median[2, shown.columns.index("attn3")] == np.nanmedian(layer_1)
        # heads are in the sum of their own layer: that says nothing of them
        assert shown.median[2, shown.columns.index("attn1")] == grid.row("MLP1", "median")[own]
        expected = [grid.row(top[0], "median")[grid.column_index[c]] for c in shown.columns]
        expected[shown.columns.index(f"attn{top[0][1]}")] = np.nan
        np.testing.assert_array_equal(shown.median[5], expected)

    def test_a_heads_own_layer_is_blank(self, model: ModelTables) -> None:
        grid = components(model)
        shown = heatmap(grid, top_writers(model.tables))
        lost = np.isfinite(grid.values["median"]) & ~np.isfinite(shown.median)
        assert {(shown.rows[row], shown.columns[column]) for row, column in np.argwhere(lost)} == {
            (f"L{layer}H{head}", f"attn{layer}")
            for layer in range(4)
            for head in range(8)
            if np.isfinite(grid.row(f"L{layer}H{head}", "median")).any()
        }
