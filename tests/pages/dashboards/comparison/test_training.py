"""Erasure through training, and the axes on which it and sizes stand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from erasure_sweep.dashboards.comparison.training import (
    erased_of,
    plot_median,
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

    def test_the_median_is_over_heads_alone(self) -> None:
        shares = {"embed": 0.9, "L0H0": 0.4, "L0H1": -0.2, "L1H0": np.nan}
        models = [point(f"m@{at}", {**shares, "L0H1": at / 10}, training_tokens=at) for at in (1, 2)]
        for model in models:
            model.tables["writers"] = model.tables["writers"].assign(erased_low=0.0, erased_high=0.5)
        (one,) = trained(models)
        assert [point.median for point in one.points] == [
            pytest.approx((0.25, 0.0, 0.5)),
            pytest.approx((0.3, 0.0, 0.5)),
        ]
        assert [point.n_heads for point in one.points] == [2, 2]
        median = plot_median(one, [0, 1])
        np.testing.assert_allclose(median.data[0].y, [0.25, 0.3], rtol=1e-6)
        np.testing.assert_allclose(median.data[0].error_y.arrayminus, [0.25, 0.3])
        assert (
            "median over 2 heads: 0.25 [0.00, 0.50] after 1 tokens, 0.30 [0.00, 0.50] after 2 tokens."
            in (median.layout.meta["sentence"])
        )
        assert erased_of(models[0]).strongest == ("embed", 0.9)

    def test_means_are_removed_where_that_was_measured_at_every_point(self) -> None:
        models = grown()
        for model in models:
            model.tables["writers"]["erased_centred"] = model.tables["writers"]["erased"] / 2
        assert trained(models)[0].points[-1].erased.strongest == ("a", 0.45)
        del models[1].tables["writers"]["erased_centred"]
        assert trained(models)[0].points[-1].erased.strongest == ("a", 0.9)

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
            "significant erasers",
        ]
        np.testing.assert_array_equal(card.figures["1"].data[0].y, [1, np.nan, 5])
        assert (
            card.figures["1"].layout.meta["sentence"] == "Significant erasers: 1 after 0 tokens, 5 after 4,096 tokens."
        )

    def test_a_choice_of_which_nothing_was_measured_is_not_offered(self) -> None:
        card = training_card(comparison_view(grown()))
        assert len(card.controls[0].options) == len(card.figures) == 1
        assert "Significant erasers were not counted" in card.caption

    @pytest.mark.parametrize(("n", "panels"), [(1, 0), (2, 2), (3, 2)])
    def test_several_models_stand_in_panels(self, n: int, panels: int) -> None:
        models = [
            point(name.replace("m", f"m{at}"), {"L0H0": 0.5 / (at + 1)}, training_tokens=tokens)
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
        assert figure.layout.meta["sentence"] == "No writer is erased in m."


def _at(line: go.Scatter, look: str) -> str:
    return str(line[look])
