"""Maps of writers by erasers."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.grids import dla_of, reading_of
from erasure_sweep.dashboards.model.maps.dla_map import dla_map
from erasure_sweep.dashboards.plots.layer_rows import TOP_ROWS
from erasure_sweep.dashboards.plots.writer_maps import MapSize, MapStyle, WriterMap, causal_map, colour_limit, plot_map
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, fake_model

ZERO = "L1H3"


LOOK = MapStyle("β", 0.5, "")


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


class TestMaps:
    def test_every_pair_and_nothing_else(self, model: ModelTables) -> None:
        shown = causal_map(reading_of(model), top_writers(model.tables))
        assert shown.rows == [writer for writer in Layout(4, 8).writers if writer[:2] != "L3" and writer != "MLP3"]
        assert shown.columns == list(Layout(4, 8).heads)
        at = shown.rows.index("L0H1"), shown.columns.index("L2H5")
        table = model.tables["v_composition"]
        assert shown.values[at] == cell(table, "eraser", "L0H1", "L2H5", "beta")
        assert shown.hover[at].tolist() == [
            cell(table, "eraser", "L0H1", "L2H5", name) for name in ("clean_median", "patched_median")
        ]
        heads = [row for row, writer in enumerate(shown.rows) if writer[0] == "L" and writer != ZERO]
        later = [[eraser[1] > shown.rows[row][1] for eraser in shown.columns] for row in heads]
        np.testing.assert_array_equal(np.isfinite(shown.values[heads]), later)
        assert np.isnan(shown.values[shown.rows.index(ZERO)]).all()

    def test_means_removed_and_whole_layers(self, model: ModelTables) -> None:
        shown = causal_map(reading_of(model), top_writers(model.tables), "layers", centred=True)
        assert shown.columns == ["attn0", "attn1", "attn2", "attn3"]
        table = model.tables["v_composition"]
        assert shown.values[shown.rows.index("L0H4"), -1] == cell(table, "eraser", "L0H4", "attn3", "beta_centred")

    def test_rows_by_rank_are_the_most_erased(self, model: ModelTables) -> None:
        top = top_writers(model.tables)
        shown = causal_map(reading_of(model), top, by_rank=True, size=MapSize(top_rows=3))
        assert shown.rows == top[:3]
        assert not shown.aggregated

    def test_large_models_show_layers_and_top_writers(self, model: ModelTables) -> None:
        grid, top = reading_of(model), top_writers(model.tables)
        shown = causal_map(grid, top, "heads", size=MapSize(max_writers=20))
        assert shown.aggregated
        layers = [f"layer {layer} (median)" for layer in range(3)]
        ranked = [writer for writer in top[:TOP_ROWS] if writer in grid.row_index]
        assert shown.rows == ["embeddings", *layers, *ranked]
        assert shown.columns == ["attn0", "attn1", "attn2", "attn3"]
        layer_1 = [
            grid.row(writer, "beta")[grid.column_index["attn3"]] for writer in grid.writers if writer[:2] == "L1"
        ]
        layer_1.append(grid.row("MLP1", "beta")[grid.column_index["attn3"]])
        assert shown.values[2, 3] == np.nanmedian(layer_1)

    @pytest.mark.parametrize("effect", ["full", "v_composition"])
    def test_dla_is_of_the_chosen_effect(self, model: ModelTables, effect: str) -> None:
        shown = dla_map(dla_of(model, effect), top_writers(model.tables))
        table = model.tables["dla_correlation"]
        table = table[table["effect"] == effect]
        at = shown.rows.index("L0H4"), shown.columns.index("L1H5")
        assert shown.values[at] == cell(table, "eraser", "L0H4", "L1H5", "r")
        assert shown.hover[at].tolist() == [
            cell(table, "eraser", "L0H4", "L1H5", name) for name in ("slope", "low", "high")
        ]

    def test_colours_are_centred_and_end_at_a_round_number(self) -> None:
        values = np.array([[-0.15, 0.01, np.nan], [0.0, 0.02, -0.1]])
        shown = WriterMap(["L0H0", "L0H1"], ["L1H0", "L1H1", "L2H0"], values, np.zeros((2, 3, 2)), False)
        assert colour_limit([shown]) == 0.2
        assert colour_limit([shown._replace(values=np.full((2, 3), np.nan))]) == 1.0
        figure = plot_map(shown, LOOK, x_title="later head")
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.5, 0.5)
        assert list(figure.layout.coloraxis.colorbar.ticktext) == ["≤ −0.5", "−0.25", "0", "0.25", "≥ 0.5"]
        assert [shape.x0 for shape in figure.layout.shapes] == [1.5]

    def test_a_few_wild_values_do_not_set_the_colours(self) -> None:
        values = np.append(np.full(197, 0.04), [30.0, -30.0, 3.0]).reshape(10, 20)
        assert colour_limit([WriterMap([], [], values, np.zeros((10, 20, 2)), False)]) == 0.05

    def test_many_heads_are_named_by_their_layers(self) -> None:
        columns = [f"L{layer}H{head}" for layer in range(1, 6) for head in range(12)]
        shown = WriterMap(["L0H0"], columns, np.zeros((1, 60)), np.zeros((1, 60, 2)), False)
        axis = plot_map(shown, LOOK, x_title="later head").layout.xaxis
        assert list(axis.ticktext) == [f"layer {layer}" for layer in range(1, 6)]
        assert list(axis.tickvals) == [f"L{layer}H5" for layer in range(1, 6)]
