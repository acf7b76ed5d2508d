"""Erasure through training and against size, and the axes that they stand on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from erasure_sweep.dashboards.comparison.sizes import (
    LAYERS,
    PARAMETERS,
    TOKENS,
    WIDTH,
    against,
    plot_sizes,
    size_card,
    sized,
    strands,
)
from erasure_sweep.dashboards.comparison.training import (
    erased_of,
    plot_mean,
    plot_writers,
    trained,
    training_card,
    writer_lines,
)
from erasure_sweep.dashboards.plots.size_axis import axis_for
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import model_tables, point, significant_pairs_table
from tests.support.fakes.views import comparison_view


def grown() -> list[ModelTables]:
    """Three points of a model by hand, as a manifest could have them: not in order."""
    return [
        point("m", {"a": 0.9, "b": 0.4, "c": -0.3, "d": 0.001}, training_tokens=4096),
        point("m@0", {"a": -0.1, "b": 0.0, "c": np.nan, "d": 0.2}, training_tokens=0),
        point("m@64", {"a": 0.3, "b": 0.5, "c": 0.1, "d": np.nan}, training_tokens=64),
    ]


class TestAxis:
    def test_0_stands_left_of_the_smallest_as_its_own_tick(self) -> None:
        axis = axis_for("tokens", [0, 65536, 16777216])
        assert axis.layout["type"] == "log"
        assert axis.zero is not None
        assert axis.places([65536, 0, 16777216]) == [65536, axis.zero, 16777216]
        ticks = dict(zip(axis.layout["ticktext"], axis.layout["tickvals"], strict=True))
        assert ticks == {"0": axis.zero, "100,000": 1e5, "1 million": 1e6, "10 million": 1e7}
        # the range, in powers of ten, holds every point, and the line lies between 0 and the first of them
        low, high = (10**end for end in axis.layout["range"])
        assert low < axis.zero < axis.shapes[0]["x0"] < 65536
        assert high > 16777216

    def test_near_numbers_are_linear_and_wide_ones_logarithmic(self) -> None:
        near, wide = axis_for("layers", [1, 2, 4, 2], whole=True), axis_for("layers", [1, 12, 48], whole=True)
        assert "type" not in near.layout
        assert (near.layout["tickvals"], near.layout["title"]["text"]) == ([1, 2, 4], "layers")
        assert wide.layout["type"] == "log"
        assert (wide.layout["tickvals"], wide.layout["title"]["text"]) == ([1, 12, 48], "layers (logarithmic)")
        assert near.zero is wide.zero is None

    @pytest.mark.parametrize(
        ("values", "log"), [([7], False), ([7], True), ([0], True), ([0, 0], False), ([3, 4], True), ([0, 5], True)]
    )
    def test_few_values_have_ticks_within_a_range(self, values: list[float], log: bool) -> None:
        axis = axis_for("x", values, log=log)
        low, high = axis.layout["range"]
        places = axis.places(values)
        shown = np.log10(places) if axis.layout.get("type") == "log" else np.array(places)
        assert (low < shown).all()
        assert (shown < high).all()
        assert 0 < len(axis.layout["tickvals"]) == len(axis.layout["ticktext"])

    @pytest.mark.parametrize("values", [[200_000, 900_000], [350_000, 1_200_000], [5e7, 2.2e10], [1, 1e12]])
    @pytest.mark.parametrize("log", [False, True])
    def test_ticks_are_few_and_within_the_values(self, values: list[float], log: bool) -> None:
        ticks = axis_for("x", values, log=log).layout["tickvals"]
        assert 2 <= len(ticks) <= 7
        assert values[0] <= min(ticks) <= max(ticks) <= values[1]


class TestTraining:
    def test_points_are_in_order_of_tokens(self) -> None:
        (one,) = trained(grown())
        assert (one.name, one.unit) == ("m", "tokens")
        assert [(p.model, p.at) for p in one.points] == [("m@0", 0), ("m@64", 64), ("m", 4096)]

    def test_lines_are_the_writers_most_erased_at_the_last_point(self) -> None:
        (one,) = trained(grown())
        lines = writer_lines(one)
        # c adds to what it wrote at the end, and of d next to nothing is erased there
        assert [line.writer for line in lines] == ["a", "b"]
        np.testing.assert_array_equal(lines[0].shares, [-0.1, 0.3, 0.9])
        np.testing.assert_array_equal(lines[1].shares, [0.0, 0.5, 0.4])
        assert [line.writer for line in writer_lines(one, most=1)] == ["a"]

    def test_a_writer_that_was_not_measured_at_a_point_leaves_a_gap(self) -> None:
        models = [*grown()[:2], point("m@64", {"a": 0.3}, training_tokens=64)]
        line = writer_lines(trained(models)[0])[1]
        np.testing.assert_array_equal(line.shares, [0.0, np.nan, 0.4])

    def test_mean_of_the_positive_by_hand(self) -> None:
        first, second, last = (p.erased for p in trained(grown())[0].points)
        assert first.mean == pytest.approx(0.2)
        assert second.mean == pytest.approx((0.3 + 0.5 + 0.1) / 3)
        assert (len(last.positive), len(last.by_writer)) == (3, 4)
        assert last.mean == pytest.approx((0.9 + 0.4 + 0.001) / 3)
        assert last.strongest == ("a", 0.9)
        assert erased_of(point("m", {"a": -0.1})).mean == 0
        assert np.isnan(erased_of(point("m", {"a": np.nan})).mean)

    def test_figure_says_numbers_under_the_pointer_and_in_a_sentence(self) -> None:
        (one,) = trained(grown())
        figure = plot_writers(one, [-0.2, 1.0])
        line = figure.data[0]
        assert line.name == "a"
        assert list(line.x[1:]) == [64, 4096]
        assert 0 < line.x[0] < 64
        np.testing.assert_allclose(line.y, [-0.1, 0.3, 0.9], rtol=1e-6)
        assert line.hovertext[-1] == "m<br>after 4,096 tokens"
        assert "a\u00a0−0.10\u00a0→\u00a00.90, b\u00a00.00\u00a0→\u00a00.40." in figure.layout.meta["sentence"]
        mean = plot_mean(one, [0, 1])
        assert list(mean.data[0].customdata) == ["1 of 3", "3 of 3", "3 of 4"]
        assert "0.43 after 4,096 tokens (3 of 4)" in mean.layout.meta["sentence"]

    def test_no_two_lines_look_alike(self) -> None:
        shares = {f"L0H{head}": 0.5 + head / 10 for head in range(9)}
        models = [point("m@1", shares, training_tokens=1), point("m", shares, training_tokens=2)]
        lines = plot_writers(trained(models)[0], [0, 1]).data
        for look in ("line.color", "marker.symbol"):
            assert len({_at(line, look) for line in lines}) == len(lines) == 6

    def test_steps_stand_where_tokens_are_not_known(self) -> None:
        models = [point(f"m@{n}", {"a": 0.1}, training_steps=n) for n in (10, 5)]
        (one,) = trained(models)
        assert (one.unit, [p.at for p in one.points]) == ("steps", [5, 10])
        known = [point(f"m@{n}", {"a": 0.1}, training_steps=n, training_tokens=8 * n) for n in (10, 5)]
        assert [p.at for p in trained(known)[0].points] == [40, 80]

    def test_the_same_model_of_two_sweeps_is_two_series(self) -> None:
        models = [
            model_tables({**model.about.to_json(), "name": f"{model.about.name} · {sweep}"}, model.tables)
            for sweep in ("one", "two")
            for model in grown()
        ]
        assert [(one.name, len(one.points)) for one in trained(models)] == [("m · one", 3), ("m · two", 3)]

    def test_significant_erasers_are_counted(self) -> None:
        models = grown()
        for model in models:
            counted = {"m@0": 1, "m@64": None, "m": 5}[model.about.name]
            model.tables["v_composition"] = significant_pairs_table(counted)
        np.testing.assert_array_equal([p.significant for p in trained(models)[0].points], [1, np.nan, 5])
        card = training_card(comparison_view(models))
        assert list(card.controls[0].options) == [
            "most erased writers",
            "all writers: mean share erased",
            "significant erasers",
        ]
        np.testing.assert_array_equal(card.figures["2"].data[0].y, [1, np.nan, 5])
        assert (
            card.figures["2"].layout.meta["sentence"] == "Significant erasers: 1 after 0 tokens, 5 after 4,096 tokens."
        )

    def test_a_choice_of_which_nothing_was_measured_is_not_offered(self) -> None:
        card = training_card(comparison_view(grown()))
        assert len(card.controls[0].options) == len(card.figures) == 2
        assert "Significant erasers were not counted" in card.caption

    @pytest.mark.parametrize(("n", "panels"), [(1, 0), (2, 2), (3, 2)])
    def test_several_models_stand_in_panels(self, n: int, panels: int) -> None:
        models = [
            point(name.replace("m", f"m{at}"), {"a": 0.5 / (at + 1)}, training_tokens=tokens)
            for at in range(n)
            for name, tokens in (("m@0", 0), ("m", 10))
        ]
        card = training_card(comparison_view(models))
        assert len(card.panels) == panels
        assert len(card.figures) == 2 * n
        # all models share an axis
        assert len({tuple(figure.layout.yaxis.range) for key, figure in card.figures.items() if key[0] == "0"}) == 1

    @pytest.mark.parametrize(
        ("models", "said"),
        [
            ([], "no checkpoints"),
            ([point("m", {"a": 0.5}, training_tokens=5)], "no checkpoints"),
            (grown()[1:2], "takes two points"),
            ([point("m@1", {"a": 0.5}), point("m@2", {"a": 0.5})], "takes two points"),
            ([point("m@1", {"a": np.nan}, training_tokens=1), grown()[0]], "takes two points"),
            ([model_tables(model.about, {}) for model in grown()], "takes two points"),
            (
                [model_tables(m.about, {"writers": pd.DataFrame({"writer": ["a"]})}) for m in grown()],
                "takes two points",
            ),
        ],
    )
    def test_without_two_points_the_card_says_why(self, models: list[ModelTables], said: str) -> None:
        card = training_card(comparison_view(models))
        assert card.figures == {}
        assert said in card.empty

    def test_what_is_left_out_is_named(self) -> None:
        lost = model_tables({"name": "m@7", "base": "m", "training_tokens": 7}, {})
        twice = point("m@4096", {"a": 0.1}, training_tokens=4096)
        other = point("other", {"a": 0.1}, training_tokens=1)
        caption = training_card(comparison_view([*grown(), lost, twice, other])).caption
        assert caption.endswith("stands at the same point: m@7, m@4096.")
        assert "Not drawn" not in training_card(comparison_view(grown())).caption
        assert "before any training" in training_card(comparison_view(grown())).caption
        assert (
            "before any training"
            not in training_card(comparison_view([model for model in grown() if model.about.name != "m@0"])).caption
        )

    def test_nothing_erased_is_said(self) -> None:
        models = [point("m@1", {"a": 0.5}, training_tokens=1), point("m", {"a": -0.5}, training_tokens=2)]
        figure = training_card(comparison_view(models)).figures["0"]
        assert figure.layout.meta["sentence"] == "No writer is erased by reading in m."


def _at(line: go.Scatter, look: str) -> str:
    return str(line[look])


class TestSizes:
    def test_strongest_is_filled_and_the_mean_is_hollow(self) -> None:
        models = sized([point("m-2l", {"a": 0.8, "b": 0.2, "c": -0.4}, n_layers=2)])
        hollow, filled = plot_sizes(models, LAYERS, ["m"]).data[:2]
        assert (filled.marker.symbol, hollow.marker.symbol) == ("circle", "circle-open")
        assert list(filled.y) == [0.8]
        assert list(hollow.y) == [pytest.approx(0.5)]
        assert filled.hovertext[0] == "<b>m-2l</b><br>most erased: a, 0.800<br>2 layers"
        assert "2 of 3 measured writers" in hollow.hovertext[0]

    def test_checkpoints_stand_against_training_tokens_alone(self) -> None:
        models = sized(
            [model_tables({**model.about.to_json(), "n_layers": 2, "d_model": 8}, model.tables) for model in grown()]
        )
        assert [one.model for one in against(models, LAYERS)] == ["m"]
        assert [one.model for one in against(models, WIDTH)] == ["m"]
        assert against(models, PARAMETERS) == []
        assert len(against(models, TOKENS)) == 3
        (line,) = strands(models, TOKENS)
        assert [one.model for one in line] == ["m@0", "m@64", "m"]

    def test_lines_join_models_that_differ_in_what_is_on_the_axis(self) -> None:
        models = sized(
            [
                point(f"toy-{n}l-w{width}", {"a": 0.5}, n_layers=n, d_model=width, n_params=n * width**2)
                for width in (128, 64)
                for n in (1, 2)
            ]
        )
        assert _names(strands(models, LAYERS)) == [["toy-1l-w128", "toy-2l-w128"], ["toy-1l-w64", "toy-2l-w64"]]
        assert _names(strands(models, WIDTH)) == [["toy-1l-w64", "toy-1l-w128"], ["toy-2l-w64", "toy-2l-w128"]]
        assert _names(strands(models, PARAMETERS)) == [["toy-1l-w64", "toy-2l-w64"], ["toy-1l-w128", "toy-2l-w128"]]
        filled = [trace for trace in plot_sizes(models, PARAMETERS, ["toy"]).data if trace.showlegend]
        assert [trace.name for trace in filled] == ["toy, width 64", "toy, width 128"]
        assert len({trace.marker.color for trace in filled}) == 2
        gpt2 = sized(
            [point(name, {"a": 0.5}, n_layers=n, d_model=64 * n) for name, n in (("gpt2-xl", 48), ("gpt2", 12))]
        )
        assert _names(strands(gpt2, LAYERS)) == [["gpt2", "gpt2-xl"]]
        # sizes that grow together are one line against parameters too
        whole = [one._replace(parameters=n) for one, n in zip(gpt2, (48, 12), strict=True)]
        assert _names(strands(whole, PARAMETERS)) == [["gpt2", "gpt2-xl"]]

    def test_a_family_may_have_nothing_on_an_axis(self) -> None:
        models = sized([point("a", {"x": 0.5}, n_layers=2), point("b", {"x": 0.5}, n_layers=None)])
        assert strands([], LAYERS) == []
        assert {trace.name for trace in plot_sizes(models, LAYERS, ["a", "b"]).data if trace.showlegend} == {"a"}

    def test_models_that_nothing_tells_apart_stand_alone(self) -> None:
        models = sized([point(f"m-{size}", {"a": 0.5}, n_layers=2, d_model=8) for size in ("small", "large")])
        assert _names(strands(models, LAYERS)) == [["m-small"], ["m-large"]]

    def test_families_have_a_colour_a_symbol_and_one_entry_in_the_legend(self) -> None:
        names = ["gelu-1l", "gelu-2l", "solu-1l", "gpt2"]
        models = sized([point(name, {"a": 0.5}, n_layers=1 + at) for at, name in enumerate(names)])
        families = list(dict.fromkeys(one.family for one in models))
        assert families == ["gelu", "solu", "gpt2"]
        figure = plot_sizes(models, LAYERS, families)
        entries = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert entries == ["gelu", "solu", "gpt2", "most erased writer", "mean of the erased writers"]
        filled = [trace for trace in figure.data if trace.showlegend]
        assert len({(trace.marker.color, trace.marker.symbol) for trace in filled}) == 3

    def test_the_axis_begins_with_what_differs(self) -> None:
        card = size_card(
            comparison_view(
                [point(f"m-w{width}", {"a": 0.5}, n_layers=2, d_model=width, n_params=width) for width in (64, 1024)]
            )
        )
        assert list(card.controls[0].options) == ["layers", "width", "parameters"]
        assert card.controls[0].chosen == 1
        assert card.figures["1"].layout.xaxis.type == "log"

    @pytest.mark.parametrize(
        "models",
        [
            [],
            [model_tables({}, {})],
            [point("m", {"a": 0.5})],
            [point("m", {"a": np.nan}, n_layers=2)],
            [point("m@1", {"a": 0.5}, n_layers=2)],
        ],
    )
    def test_without_a_model_of_known_size_the_card_says_so(self, models: list[ModelTables]) -> None:
        card = size_card(comparison_view(models))
        assert card.figures == {}
        assert "measured in no model of known size" in card.empty

    def test_what_is_not_known_is_said(self) -> None:
        models = [
            point("a", {"x": 0.5}, n_layers=2, d_model=4, n_params=9, training_tokens=7),
            point("b", {"x": 0.5}, n_layers=2, d_model=4, n_params=9),
            model_tables({"name": "c", "n_layers": 2}, {}),
        ]
        caption = size_card(comparison_view(models)).caption
        assert "not measured: c." in caption
        assert "not drawn against training tokens: b." in caption
        assert "against layers" not in caption


def _names(lines: list) -> list[list[str]]:
    return [[one.model for one in line] for line in lines]
