"""Figures of erasing by reading: what they show, against tables computed from known vectors and values worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.comparison.causal_maps import causal_maps
from erasure_sweep.dashboards.comparison.depth import depth_lines
from erasure_sweep.dashboards.comparison.overview import overview
from erasure_sweep.dashboards.comparison.strip_cards import named_writers
from erasure_sweep.dashboards.model.clean_and_patched import clean_and_patched, plot_clean_and_patched
from erasure_sweep.dashboards.model.dla_map import dla_map
from erasure_sweep.dashboards.model.erased_by_layer import layer_strips, plot_erased_by_layer
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.dashboards.model.writers_table import writers_in_numbers
from erasure_sweep.dashboards.model_tables import ModelTables, dla_of, reading_of
from erasure_sweep.dashboards.plots.layer_rows import TOP_ROWS
from erasure_sweep.dashboards.plots.writer_maps import MapSize, MapStyle, WriterMap, causal_map, colour_limit, plot_map
from erasure_sweep.dashboards.plots.writer_strips import (
    ERASED,
    plot_strips,
    strip_points,
    strip_range,
    strongest_points,
)
from erasure_sweep.dashboards.wording import LATER_NAME, number, protocol_warnings
from erasure_sweep.workers.labels import Layout, component_order
from erasure_sweep.workers.tables.facts.erasure import is_ranked, top_writers, writers_by_rank
from tests.support.fakes.tables import cell, fake_model, row_of
from tests.support.fakes.views import comparison_view

ZERO = "L1H3"
LOOK = MapStyle("β", 0.5, "")


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


@pytest.fixture(scope="module")
def older() -> ModelTables:
    return fake_model("older", 2, 3, seed=1)


def composition(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """A table onto L0H0 by hand: eraser, clean and patched median; quartiles are 0.1 to either side."""
    table = pd.DataFrame(rows, columns=["eraser", "clean_median", "patched_median"]).assign(writer="L0H0")
    for run in ("clean", "patched"):
        table[f"{run}_q25"], table[f"{run}_q75"] = table[f"{run}_median"] - 0.1, table[f"{run}_median"] + 0.1
    return table.assign(beta=table["clean_median"] - table["patched_median"], beta_centred=0.0)


BY_HAND = composition(
    ("L1H0", -0.3, 0.0), ("L1H1", -0.2, -0.2), ("attn1", -0.5, -0.2), ("L2H0", -0.4, 0.1), ("later", -0.9, -0.1)
)


def reading_by_hand(table: pd.DataFrame = BY_HAND) -> ModelTables:
    return ModelTables({}, {"v_composition": table})


class TestOrder:
    def test_writers_are_in_the_order_of_their_ranks(self, model: ModelTables) -> None:
        ranks = model.tables["writers"].dropna(subset="rank").sort_values("rank")["writer"].tolist()
        assert top_writers(model.tables)[: len(ranks)] == ranks
        # the last layer's writers have no rank, for nothing reads them, and follow in the order of what opposes them
        rest = top_writers(model.tables)[len(ranks) :]
        assert {writer[:2] for writer in rest} == {"L3", "ML"}
        opposed = model.tables["writers"].set_index("writer")["opposed"]
        assert rest == opposed[rest].sort_values(kind="stable").index.tolist()
        assert writers_by_rank(model.tables)["writer"].iloc[-1] == ZERO

    def test_a_run_without_ranks_is_in_the_order_of_what_is_opposed(self, older: ModelTables) -> None:
        assert not is_ranked(writers_by_rank(older.tables))
        opposed = older.tables["writers"].set_index("writer")["opposed"]
        assert top_writers(older.tables) == opposed.sort_values(kind="stable").index.tolist()

    def test_erasers_are_in_stream_order_with_their_sums(self, model: ModelTables) -> None:
        columns = reading_of(model).columns
        assert columns == component_order(sorted(columns, key=lambda label: label[::-1]))
        assert columns[-3:] == ["L3H7", "attn3", "later"]


class TestCleanAndPatched:
    def test_every_later_head_with_its_values(self, model: ModelTables) -> None:
        shown = clean_and_patched(reading_of(model), "L1H2", row_of(model, "L1H2")["erasers"])
        assert shown.labels == [label for label in Layout(4, 8).heads if label[1] in "23"]
        table, at = model.tables["v_composition"], shown.labels.index("L3H4")
        assert shown.clean.q75[at] == cell(table, "eraser", "L1H2", "L3H4", "clean_q75")
        assert shown.patched.median[at] == cell(table, "eraser", "L1H2", "L3H4", "patched_median")
        assert shown.removed == row_of(model, "L1H2")["erased_by_reading"]

    def test_whole_layers_end_with_all_later_heads(self, model: ModelTables) -> None:
        shown = clean_and_patched(reading_of(model), "embed", None, "layers")
        assert shown.labels == ["attn0", "attn1", "attn2", "attn3", "later"]
        figure = plot_clean_and_patched(shown)
        assert figure.layout.xaxis.ticktext[-1] == LATER_NAME

    def test_of_many_heads_those_that_change_most_are_drawn_in_order(self) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0", most=2)
        assert shown.labels == ["L1H0", "L2H0"]
        assert shown.left_out == 1
        assert (
            "Drawn are the 2 heads that change most; 1 others" in plot_clean_and_patched(shown).layout.meta["sentence"]
        )

    def test_figure_puts_clean_beside_patched(self) -> None:
        figure = plot_clean_and_patched(clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0"))
        clean, patched = figure.data
        assert [round(float(x)) for x in clean.x] == [0, 1, 2]
        assert (np.asarray(clean.x) < np.asarray(patched.x)).all()
        np.testing.assert_allclose(clean.y, [-0.3, -0.2, -0.4], rtol=1e-6)
        np.testing.assert_allclose(patched.y, [0.0, -0.2, 0.1], rtol=1e-6)
        np.testing.assert_allclose(clean.error_y.array, 0.1, rtol=1e-5)
        assert list(figure.layout.xaxis.ticktext) == ["<b>L1H0</b>", "L1H1", "<b>L2H0</b>"]
        # a line between the layers, and a shade behind each eraser
        assert [shape.type for shape in figure.layout.shapes] == ["line", "rect", "rect"]
        assert [note.text for note in figure.layout.annotations] == ["layer 1", "layer 2"]

    def test_sentence_names_the_erasers_strongest_first(self) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0")
        sentence = plot_clean_and_patched(shown).layout.meta["sentence"]
        assert sentence.startswith("Because they read it, later heads together take out 0.80 of L0H0's output")
        assert sentence.endswith(": L2H0\u00a0−0.40\u00a0→\u00a00.10, L1H0\u00a0−0.30\u00a0→\u00a00.00.")

    def test_strongest_is_what_is_written_because_of_reading(self) -> None:
        table = composition(("L1H0", -0.9, -0.8), ("L1H1", -0.2, 0.4), ("L2H0", 0.1, 0.4))
        shown = clean_and_patched(reading_of(reading_by_hand(table)), "L0H0", "L1H0+L1H1+L2H0")
        assert shown.erasers == ["L1H1", "L2H0", "L1H0"]

    @pytest.mark.parametrize(("erasers", "said"), [("", True), (None, False), (float("nan"), False)])
    def test_none_is_said_only_where_it_was_measured(self, erasers: object, said: bool) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", erasers)
        assert ("No head qualifies" in plot_clean_and_patched(shown).layout.meta["sentence"]) is said

    def test_a_named_group_stands_beside_the_layers(self) -> None:
        group = "L1H0+L1H1+L2H0+L2H1"
        grouped = fake_model("g", 3, 2, n_tokens=24, reading=True, groups={"L0H1": tuple(group.split("+"))})
        grid = reading_of(grouped)
        shown = clean_and_patched(grid, "L0H1", "", "layers")
        assert shown.labels == ["attn1", "attn2", "later", group]
        figure = plot_clean_and_patched(shown)
        assert list(figure.layout.xaxis.ticktext)[2:] == [LATER_NAME, group]
        moved = f"{number(shown.clean.median[3])}\u00a0→\u00a0{number(shown.patched.median[3])}"
        assert f"The group {group}: {moved}." in figure.layout.meta["sentence"]
        # of other writers the group is not measured, and no map has a column for it
        assert clean_and_patched(grid, "L0H0", "", "layers").labels == ["attn1", "attn2", "later"]
        assert causal_map(grid, [], "layers").columns == ["attn0", "attn1", "attn2", "later"]
        assert causal_map(grid, []).columns == list(Layout(3, 2).heads)

    def test_an_unmeasured_writer_has_nothing_to_show(self, model: ModelTables) -> None:
        assert ZERO in reading_of(model).writers
        assert ZERO not in reading_of(model).measured
        assert clean_and_patched(reading_of(model), ZERO, None).labels == []


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
        assert shown.columns == ["attn0", "attn1", "attn2", "attn3", "later"]
        assert shown.values[shown.rows.index("L0H4"), -1] == -row_of(model, "L0H4")["erased_by_reading_centred"]

    def test_rows_by_rank_are_the_most_erased(self, model: ModelTables) -> None:
        top = top_writers(model)
        shown = causal_map(reading_of(model), top, by_rank=True, size=MapSize(top_rows=3))
        assert shown.rows == top[:3]
        assert not shown.aggregated

    def test_large_models_show_layers_and_top_writers(self, model: ModelTables) -> None:
        grid, top = reading_of(model), top_writers(model)
        shown = causal_map(grid, top, "heads", size=MapSize(max_writers=20))
        assert shown.aggregated
        layers = [f"layer {layer} (median)" for layer in range(3)]
        ranked = [writer for writer in top[:TOP_ROWS] if writer in grid.row_index]
        assert shown.rows == ["embeddings", *layers, *ranked]
        assert shown.columns == ["attn0", "attn1", "attn2", "attn3", "later"]
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

    def test_dla_against_what_reads_it_is_in_the_writers_table(self, model: ModelTables) -> None:
        shown = dla_map(dla_of(model, "v_composition"), top_writers(model.tables), "layers")
        assert shown.values[shown.rows.index("L0H4"), -1] == row_of(model, "L0H4")["dla_r"]

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


class TestErasedByLayer:
    def test_a_strip_per_layer_holds_its_writers(self, model: ModelTables) -> None:
        strips = layer_strips(writers_by_rank(model.tables))
        assert [name for name, _ in strips] == ["embeddings", *(f"layer {layer}" for layer in range(4))]
        assert sorted(strips[2][1]["writer"]) == sorted([*(f"L1H{head}" for head in range(8)), "MLP1"])
        points = strip_points(strips, ERASED)
        assert points.groupby("group").size().to_dict() == {"embeddings": 2, "layer 0": 9, "layer 1": 8, "layer 2": 9}
        first = points[points["group"] == "layer 0"].iloc[0]
        assert first["value"] == row_of(model, first["writer"])["erased_by_reading"]
        assert first["writer"] == top_writers(model.tables, 1)[0]

    def test_sentence_names_the_strongest_and_what_was_not_measured(self, model: ModelTables) -> None:
        figure = plot_erased_by_layer(writers_by_rank(model.tables))
        first = row_of(model, top_writers(model.tables, 1)[0])
        start = f"Most erased by reading: {first['writer']}\u00a0{number(first['erased_by_reading'])}"
        assert figure.layout.meta["sentence"].startswith(start)
        assert figure.layout.meta["sentence"].endswith("No later heads, or not measured: layer 3.")

    def test_only_noticeable_writers_are_named(self) -> None:
        rows = pd.DataFrame({"writer": ["L0H0", "L0H1", "L0H2"], "erased_by_reading": [0.001, 0.6, -0.4]})
        points = strip_points([("layer 0", rows)], ERASED)
        assert strongest_points(points, ERASED, 5)["writer"].tolist() == ["L0H1"]
        figure = plot_strips(points, ["layer 0"], ERASED, named=5)
        assert sorted(name for trace in figure.data[1:] for name in trace.text) == ["", "", "L0H1"]

    def test_names_too_close_to_be_read_are_left_out(self) -> None:
        rows = pd.DataFrame({"writer": [f"L0H{i}" for i in range(4)], "erased_by_reading": [0.8, 0.8, 0.8, 0.8]})
        figure = plot_strips(strip_points([("layer 0", rows)], ERASED), ["layer 0"], ERASED, named=4)
        strip = figure.data[1]
        assert [name for name in strip.text if name] == ["L0H0", "L0H1"]
        assert list(strip.textposition[:2]) == ["middle left", "middle right"]

    def test_the_axis_shows_both_signs_and_cuts_wild_tails(self) -> None:
        values = [*[0.0] * 38, 0.9, 40.0, -0.3]
        points = pd.DataFrame({"group": "m", "writer": [f"L0H{i}" for i in range(41)], "value": values})
        assert strip_range(points, ERASED) == (-0.3, 2.0)
        nothing = points.assign(value=0.0)
        assert strip_range(nothing, ERASED) == (0.0, 0.2)


class TestCompare:
    def test_maps_of_small_models_have_every_writer_and_of_large_ones_layers(self, model: ModelTables) -> None:
        large = fake_model("large", 4, 20, n_tokens=6, d_model=8, reading=True)
        maps = causal_maps([model, large])
        assert list(maps) == [(columns, name) for name in ("four", "large") for columns in ("layers", "heads")]
        plain, centred = maps["heads", "four"]
        assert plain.rows == causal_map(reading_of(model), []).rows
        assert not np.array_equal(plain.values, centred.values, equal_nan=True)
        layers = ["embeddings", *(f"layer {layer} (median)" for layer in range(3))]
        assert maps["heads", "large"][0].rows == [*layers, *top_writers(large.tables, 10)]
        assert maps["heads", "large"][0].columns == ["attn0", "attn1", "attn2", "attn3", "later"]

    def test_models_without_the_table_have_no_map(self, model: ModelTables, older: ModelTables) -> None:
        assert {name for _, name in causal_maps([older, model])} == {"four"}

    def test_overview_ranks_by_what_is_erased_by_reading(self, model: ModelTables) -> None:
        table = overview(comparison_view([model]))
        assert [column.heading for column in table.columns[5:]] == [
            "most erased by reading: share (written → remaining)"
        ]
        first = row_of(model, top_writers(model.tables, 1)[0])
        said = f"{first['writer']}\u00a0{number(first['erased_by_reading'])} ("
        assert table.rows[0][5].markup.startswith(said)
        # sorted by the number and not by the name
        assert table.rows[0][5].value == first["erased_by_reading"]

    def test_overview_of_older_runs_beside_newer_ones(self, model: ModelTables, older: ModelTables) -> None:
        table = overview(comparison_view([model, older]))
        assert [column.heading.split(":")[0] for column in table.columns[5:]] == [
            "most erased by reading",
            "most opposed",
        ]
        assert table.rows[1][5] is None
        assert table.rows[1][6].startswith(top_writers(older.tables, 1)[0])

    def test_overview_says_none_where_nothing_is_erased(self) -> None:
        writers = pd.DataFrame({"writer": ["embed"], "erased_by_reading": [-0.2], "rank": [1], "opposed": [-0.1]})
        assert overview(comparison_view([ModelTables({"name": "m"}, {"writers": writers})])).rows[0][5].markup == "none"

    def test_depth_follows_the_most_erased(self, model: ModelTables, older: ModelTables) -> None:
        assert (depth_lines(model)[0].role, depth_lines(model)[0].writer) == (
            "most erased",
            top_writers(model.tables, 1)[0],
        )
        assert depth_lines(older)[0].role == "most opposed"

    def test_strips_leave_out_what_was_not_measured(self, model: ModelTables, older: ModelTables) -> None:
        points = strip_points(named_writers([model, older]), ERASED)
        assert set(points["group"]) == {"four"}

    def test_seeds_devices_and_versions_are_told_apart(self) -> None:
        one = {"seed": 5235, "version": "0.1.0", "device_type": "cpu"}
        other = {"seed": 1, "version": "0.2.0", "device_type": "cuda"}
        assert protocol_warnings([one, other], ["a", "b"]) == [
            "Models were measured with different seeds: a 5235, b 1.",
            "Models were measured on different devices: a cpu, b cuda.",
            "Models were measured with different versions of erasure-sweep: a 0.1.0, b 0.2.0.",
        ]
        assert protocol_warnings([one, one], ["a", "b"]) == []


class TestWritersTable:
    def test_holds_what_is_erased_by_reading(self, model: ModelTables) -> None:
        table = writers_in_numbers(ModelView(model))
        headings = [column.heading for column in table.columns]
        assert headings[:7] == [
            *("writer", "erased by reading", "erased, means removed", "erasers", "V-composition share"),
            *("DLA r", "DLA slope"),
        ]
        first, expected = table.rows[0], row_of(model, top_writers(model.tables, 1)[0])
        names = ["erased_by_reading", "erased_by_reading_centred", "v_composition_share", "dla_r", "dla_slope"]
        assert [first[i] for i in (1, 2, 4, 5, 6)] == [expected[name] for name in names]
        betas = model.tables["v_composition"].query("writer == @first[0]").set_index("eraser")["beta"]
        strongest_first = sorted(expected["erasers"].split("+"), key=lambda head: betas[head])
        assert first[3].startswith(", ".join(strongest_first[:6]))

    def test_none_and_not_measured_are_told_apart(self, model: ModelTables) -> None:
        table = writers_in_numbers(ModelView(model))
        erasers = {row[0]: row[3] for row in table.rows}
        assert erasers["L0H0"] == "none"
        assert erasers[ZERO] is None

    def test_counts_are_whole_numbers(self, model: ModelTables) -> None:
        writers = writers_by_rank(model.tables).assign(significant_erasers=4.0)
        writers.loc[writers.index[1], "significant_erasers"] = np.nan
        table = writers_in_numbers(ModelView(ModelTables(model.about, {**model.tables, "writers": writers})))
        at = [column.heading for column in table.columns].index("significant erasers")
        cells = [row[at] for row in table.rows]
        assert cells[:3] == [4, None, 4] and isinstance(cells[0], int)
        assert "Two tests find erasers" in table.caption

    def test_of_an_older_run_it_is_the_ledger_alone(self, older: ModelTables) -> None:
        table = writers_in_numbers(ModelView(older))
        assert [column.heading for column in table.columns][:2] == ["writer", "written"]
        assert "another measure" in table.caption
