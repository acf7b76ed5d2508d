"""What the figures show, checked against tables computed from known vectors and against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.depth import depth_lines, plot_depth
from erasure_sweep.dashboards.comparison.mostly_gone import mostly_gone, plot_removed
from erasure_sweep.dashboards.comparison.overview import overview
from erasure_sweep.dashboards.comparison.strip_cards import named_writers
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.model.heatmaps import heatmap, plot_heatmap
from erasure_sweep.dashboards.model.layer_presence import layer_steps, plot_layer
from erasure_sweep.dashboards.model.ledger import ledger, plot_ledger
from erasure_sweep.dashboards.model.onto_writer import onto_writer, plot_onto
from erasure_sweep.dashboards.model.presence import plot_presence, presence
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.model_tables import ModelTables, grid_of
from erasure_sweep.dashboards.plots.layer_axis import layer_spans
from erasure_sweep.dashboards.plots.layer_rows import TOP_ROWS
from erasure_sweep.dashboards.plots.writer_strips import OPPOSED, plot_strips, strip_points
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.facts.erasure import top_writers
from tests.support.fakes.tables import cell, components, fake_model, residual, row_of
from tests.support.fakes.views import comparison_view

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestPresence:
    @pytest.mark.parametrize(
        ("writer", "state"),
        [("embed", "resid_pre0"), ("pos_embed", "resid_pre0"), ("L0H2", "resid_mid0"), ("MLP0", "resid_post0")],
    )
    def test_where_it_writes(self, model: ModelTables, writer: str, state: str) -> None:
        shown = presence(residual(model), writer)
        assert shown.written_at is not None
        assert shown.states[shown.written_at] == state

    def test_where_a_head_without_mlps_writes(self, attn_only: ModelTables) -> None:
        shown = presence(residual(attn_only), "L1H0")
        assert shown.states == ["resid_pre0", "resid_post0", "resid_post1"]
        assert shown.written_at == 2

    def test_values_and_figure(self, model: ModelTables) -> None:
        shown = presence(residual(model), "L0H1")
        table = model.tables["residual_projection"]
        assert shown.median[-1] == cell(table, "state", "L0H1", "resid_post3", "median")
        assert shown.q87_5[2] == cell(table, "state", "L0H1", "resid_post0", "q87_5")
        figure = plot_presence([shown])
        line = figure.data[-1]
        assert list(line.x) == shown.states
        np.testing.assert_allclose(line.y, shown.median, rtol=1e-6)
        assert [trace.fill for trace in figure.data] == ["toself", "toself", None]
        assert figure.layout.shapes[0].x0 == 0.5
        assert "L0H1: median" in figure.layout.meta["sentence"]

    def test_together_each_writer_has_one_band_and_one_named_line(self, model: ModelTables) -> None:
        shown = [presence(residual(model), writer) for writer in top_writers(model.tables, 5)]
        figure = plot_presence(shown)
        assert [trace.name for trace in figure.data if trace.name] == top_writers(model.tables, 5)
        assert len(figure.data) == 10

    def test_a_zero_writer_says_so(self, model: ModelTables) -> None:
        figure = plot_presence([presence(residual(model), ZERO)])
        assert "was not measured" in figure.layout.meta["sentence"]

    def test_layer_steps_hold_every_writer_once(self, model: ModelTables) -> None:
        steps = layer_steps(residual(model))
        assert [name for name, _ in steps] == ["embeddings", "layer 0", "layer 1", "layer 2", "layer 3"]
        assert steps[0][1] == ["embed", "pos_embed"]
        assert steps[2][1] == [*(f"L1H{head}" for head in range(8)), "MLP1"]
        figure = plot_layer([presence(residual(model), writer) for writer in steps[2][1]])
        assert [trace.name for trace in figure.data] == steps[2][1]
        assert f"zero everywhere: {ZERO}" in figure.layout.meta["sentence"]

    def test_no_two_writers_of_a_layer_look_alike(self) -> None:
        wide = fake_model("wide", 1, 25, n_tokens=6)
        figure = plot_layer([presence(residual(wide), f"L0H{head}") for head in range(25)])
        looks = {(t.line.color, t.line.dash, t.marker.symbol) for t in figure.data}
        assert len(looks) == 25


class TestOnto:
    def test_every_component_but_the_writer_in_order(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L1H2")
        assert shown.components == [label for label in Layout(4, 8).components if label not in ("L1H2", "attn1")]
        expected = cell(model.tables["component_projection"], "component", "L1H2", "L3H4", "q75")
        assert shown.q75[shown.components.index("L3H4")] == expected

    def test_later_are_those_that_can_have_read_it(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L1H2")
        first_later = shown.later.index(True)
        assert shown.components[first_later] == "MLP1"
        assert all(shown.later[first_later:])
        after_mlp = onto_writer(components(model), "MLP1")
        assert after_mlp.components[after_mlp.later.index(True)] == "L2H0"

    def test_figure_has_every_component_once_with_its_bars(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L0H1")
        figure = plot_onto(shown)
        drawn = [name for trace in figure.data for name in trace.x]
        assert sorted(drawn) == sorted(shown.components)
        heads = next(trace for trace in figure.data if trace.name == "attention head")
        at = shown.components.index("L2H3")
        index = list(heads.x).index("L2H3")
        assert heads.y[index] == pytest.approx(shown.median[at], rel=1e-5)
        assert heads.error_y.array[index] == pytest.approx(shown.q75[at] - shown.median[at], rel=1e-4)
        assert heads.error_y.arrayminus[index] == pytest.approx(shown.median[at] - shown.q25[at], rel=1e-4)

    def test_layers_are_separated_and_named(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "embed")
        spans = layer_spans(shown.layers)
        assert [span.layer for span in spans] == [-1, 0, 1, 2, 3]
        assert (spans[1].first, spans[1].last) == (1, 11)
        figure = plot_onto(shown)
        assert [note.text for note in figure.layout.annotations] == [f"layer {layer}" for layer in range(4)]

    def test_sentence_names_the_heads_strongest_first(self) -> None:
        table = pd.DataFrame(
            {
                "writer": "L0H0",
                "component": ["embed", "L0H1", "L1H0", "L1H1", "MLP1"],
                "q25": [-1.0, -1.0, -0.4, -0.8, -1.0],
                "median": [-0.5, -0.5, -0.2, -0.6, -0.5],
                "q75": [-0.1, -0.1, -0.1, -0.2, -0.1],
            }
        )
        sentence = plot_onto(onto_writer(grid_of(table, "component"), "L0H0")).layout.meta["sentence"]
        assert sentence.endswith("with their medians: L1H1\u00a0−0.60, L1H0\u00a0−0.20.")


class TestLedger:
    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("writer", ["embed", "pos_embed", "L0H1", "MLP0", "L2H2", "MLP3"])
    def test_adds_up_to_the_writers_table(self, model: ModelTables, writer: str, centred: bool) -> None:
        shown = ledger(components(model), model.tables["writers"], writer, centred)
        suffix = "_centred" if centred else ""
        row = row_of(model, writer)
        assert shown.written == row[f"written{suffix}"]
        assert shown.remaining == row[f"remaining{suffix}"]
        assert shown.gap == pytest.approx(0, abs=1e-9)
        up = sum(step.value for step in shown.steps if step.value > 0)
        down = sum(step.value for step in shown.steps if step.value < 0)
        assert up == pytest.approx(row[f"reinforced{suffix}"], abs=1e-9)
        assert down == pytest.approx(row[f"opposed{suffix}"], abs=1e-9)

    def test_steps_by_hand(self) -> None:
        table = pd.DataFrame(
            {
                "writer": "L0H0",
                "component": ["embed", "L0H1", "MLP0", "L1H0", "L1H1", "b_O1", "attn1", "MLP1"],
                "beta": [0.1, 0.2, 0.3, -0.5, -0.1, 0.05, -0.55, -0.2],
            }
        )
        writers = pd.DataFrame({"writer": ["L0H0"], "written": [1.3], "remaining": [0.85]})
        shown = ledger(grid_of(table, "component"), writers, "L0H0")
        assert [step.label for step in shown.steps] == ["MLP0", "attn1 +", "attn1 −", "MLP1"]
        np.testing.assert_allclose([step.value for step in shown.steps], [0.3, 0.05, -0.6, -0.2])
        assert shown.steps[2].terms == ["L1H0 -0.500", "L1H1 -0.100"]
        assert shown.gap == pytest.approx(0)

    def test_figure_is_a_waterfall_from_written_to_remaining(self, model: ModelTables) -> None:
        shown = ledger(components(model), model.tables["writers"], "L0H1")
        bars = plot_ledger(shown).data[0]
        assert bars.x[0], bars.x[-1] == ("written", "remaining")
        assert list(bars.measure) == ["absolute", *["relative"] * len(shown.steps), "absolute"]
        assert sum(bars.y[:-1]) == pytest.approx(bars.y[-1], abs=1e-5)

    def test_missing_terms_are_said(self, model: ModelTables) -> None:
        table = model.tables["component_projection"]
        partial = grid_of(table[~table["component"].str.startswith("L1")], "component")
        shown = ledger(partial, model.tables["writers"], "pos_embed")
        assert abs(shown.gap) > 0.01
        assert "lacks terms" in plot_ledger(shown).layout.meta["sentence"]

    def test_a_zero_writer_has_an_empty_ledger_that_says_so(self, model: ModelTables) -> None:
        shown = ledger(components(model), model.tables["writers"], ZERO)
        assert np.isnan(shown.written)
        figure = plot_ledger(shown)
        assert len(figure.data[0].x) == 0
        assert "was not measured" in figure.layout.meta["sentence"]


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


class TestCompare:
    def test_points_are_every_measured_writer(self, model: ModelTables, attn_only: ModelTables) -> None:
        points = strip_points(named_writers([model, attn_only]), OPPOSED)
        assert points.groupby("group").size().to_dict() == {"four": 37, "bare": 8}
        row = points[(points["group"] == "four") & (points["writer"] == "MLP2")].iloc[0]
        assert row["value"] == row_of(model, "MLP2")["opposed"]
        assert row["kind"] == "MLP"
        centred = strip_points(named_writers([model]), OPPOSED, centred=True)
        row = centred[centred["writer"] == "pos_embed"].iloc[0]
        assert row["value"] == row_of(model, "pos_embed")["opposed_centred"]

    def test_of_many_writers_the_most_opposed_stay(self, model: ModelTables) -> None:
        points = strip_points(named_writers([model]), OPPOSED, most=10)
        assert len(points) == 10
        assert points["writer"].tolist()[:5] == top_writers(model.tables, 5)
        assert points["value"].max() == model.tables["writers"]["opposed"].max()

    def test_points_below_the_axis_sit_on_its_edge_and_keep_their_value(self) -> None:
        values = [-0.1] * 40 + [-50.0]
        points = pd.DataFrame(
            {"group": "m", "writer": [f"L0H{i}" for i in range(41)], "kind": "head", "value": values}
        ).assign(written=1.0, remaining=0.5)
        figure = plot_strips(points, ["m"], OPPOSED)
        strip = figure.data[1]
        assert min(strip.y) >= figure.layout.yaxis.range[0] > -2.2
        assert strip.customdata[-1][0] == strip.meta["y"][-1] == -50
        assert (strip.marker.symbol[0], strip.marker.symbol[-1]) == ("circle", "circle-open")

    def test_depth_lines(self, model: ModelTables) -> None:
        lines = depth_lines(model)
        assert [line.role for line in lines] == [
            "most opposed",
            *(n for n in ("pos_embed", "embed") if n != lines[0].writer),
        ]
        assert lines[0].writer == top_writers(model.tables, 1)[0]
        np.testing.assert_allclose(lines[0].depth, np.arange(9) / 8)
        table = model.tables["residual_projection"]
        assert lines[-1].median[-1] == cell(table, "state", lines[-1].writer, "resid_post3", "median")
        assert len(plot_depth(lines, [0, 1]).data) == len(lines)

    def test_removed_share_by_hand(self) -> None:
        writers = pd.DataFrame(
            {
                "writer": ["embed", "pos_embed", "L0H0", "L0H1", "MLP0"],
                "written": [1.0, 1.0, 2.0, -1.0, np.nan],
                "remaining": [0.9, 0.1, 0.9, -2.0, np.nan],
            }
        )
        shown = mostly_gone([ModelTables({"name": "m", "n_layers": 1}, {"writers": writers})])
        assert shown[0][:4] == ("m", 1, 3, pytest.approx(2 / 3))
        assert plot_removed(shown).data[0].y[0] == pytest.approx(2 / 3)

    def test_removed_without_writers_is_nan(self) -> None:
        shown = mostly_gone([ModelTables({"name": "m"}, {})])
        assert shown[0][:3] == ("m", None, 0)
        assert np.isnan(shown[0].share)

    def test_overview_links_and_names_the_three_most_opposed(self, model: ModelTables) -> None:
        table = overview(comparison_view([model], {"four": Home("four/index.html")}))
        row = table.rows[0]
        assert "opposed" in table.caption
        assert table.columns[-1].heading == "most opposed: written → remaining"
        assert isinstance(row[0], Markup)
        assert row[0] == '<a href="four/index.html">four</a>'
        assert row[1] == 4
        first = row_of(model, top_writers(model.tables, 1)[0])
        start = f"{first['writer']} {number(first['written'])} → {number(first['remaining'])}".replace(" ", "\u00a0")
        assert row[5].startswith(start)
        assert row[5].count("→") == 3
        assert overview(comparison_view([ModelTables({}, {})])).rows == [
            ["unnamed model", None, None, None, None, None]
        ]

    def test_names_are_told_apart(self, model: ModelTables) -> None:
        other = ModelTables({**model.about, "folder": "four-2"}, {})
        assert display_names([model, other]) == ["four (four)", "four (four-2)"]


class TestPlotly:
    def test_figures_are_plain_json(self, model: ModelTables) -> None:
        figure = plot_heatmap(heatmap(residual(model), []), "state")
        assert json.loads(figure.to_json())["layout"]["coloraxis"]["cmin"] == -1
