"""Erasure against size: every head, the median over them, and the largest of equally many."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from erasure_sweep.dashboards.comparison.sized_models import LAYERS, PARAMETERS, TOKENS, WIDTH, Runs, against, sized
from erasure_sweep.dashboards.comparison.sizes import plot_sizes, size_card, strands
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.sizes import heads_model, more_heads_alone
from tests.support.fakes.tables import model_tables, point
from tests.support.fakes.views import comparison_view


def series(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if (trace.meta or {}).get("series") == name]


class TestFigure:
    def test_heads_quartiles_and_the_median_with_its_interval(self) -> None:
        models = sized([heads_model("m-2l", [0.8, 0.2, -0.4, 0.1], 2, half=0.05)])
        figure = plot_sizes(models, LAYERS, ["m"], centred=True)
        (heads,), (quartiles,), (median,) = (
            series(figure, name) for name in ("head", "quartiles", "median over heads")
        )
        np.testing.assert_allclose(heads.y, [0.8, 0.2, 0.1, -0.4], rtol=1e-6)
        assert heads.hovertext[0] == "L0H0 of m-2l"
        assert np.ptp(heads.x) > 0 and np.allclose(heads.x, 2, atol=0.1)
        assert quartiles.y[:2] == (pytest.approx(-0.025), pytest.approx(0.35))
        assert median.y[0] == pytest.approx(0.15)
        assert (median.error_y.array[0], median.error_y.arrayminus[0]) == (pytest.approx(0.05), pytest.approx(0.05))
        assert median.hovertext[0].startswith(
            "<b>m-2l</b><br>median over 4 heads 0.150 [0.100, 0.200]<br>largest: L0H0, 0.800<br>2 layers"
        )
        assert (median.marker.symbol, median.name) == ("circle", "m")

    def test_the_largest_is_that_of_as_many_heads_as_the_smallest_model_has(self) -> None:
        models = sized([heads_model("m-2l", [0.2, 0.3], 2), heads_model("m-3l", [0.2, 0.3, 0.4], 3)])
        (largest,) = series(plot_sizes(models, LAYERS, ["m"]), "largest of equally many heads")
        assert list(largest.y) == [pytest.approx(0.3), pytest.approx((0.3 + 2 * 0.4) / 3)]
        assert largest.marker.symbol == "circle-open"
        assert largest.hovertext[1] == "<b>m-3l</b><br>largest of 2 of its heads: 0.367 [0.300, 0.400]"

    def test_what_more_heads_alone_make_larger_does_not_look_larger(self) -> None:
        few, many = (one.plain.largest[1] for one in sized(more_heads_alone()))
        (largest,) = series(plot_sizes(sized(more_heads_alone()), LAYERS, ["toy"]), "largest of equally many heads")
        assert many - few > 0.3
        assert largest.y[1] - largest.error_y.arrayminus[1] < largest.y[0] < largest.y[1] + largest.error_y.array[1]

    def test_of_very_many_heads_the_most_erased_and_an_even_sample_stay(self) -> None:
        figure = plot_sizes(sized([heads_model("m-2l", np.linspace(-1, 1, 2000), 2)]), LAYERS, ["m"])
        (heads,) = series(figure, "head")
        assert len(heads.y) == 300
        assert (max(heads.y), min(heads.y)) == (1, -1)
        # numbers are of all
        assert series(figure, "median over heads")[0].y[0] == pytest.approx(0)

    @pytest.mark.parametrize("layers", [(2, 3, 4), (2, 48)])
    def test_of_many_families_all_stand_inside_the_axis(self, layers: tuple[int, ...]) -> None:
        families = [f"f{letter}" for letter in "abcdefg"]
        models = sized([heads_model(f"{name}-{n}l", [0.1] * 9, n) for name in families for n in layers])
        figure = plot_sizes(models, LAYERS, families)
        low, high = figure.layout.xaxis.range
        inside = [float(x) for trace in figure.data for x in (() if trace.x is None else trace.x) if x is not None]
        places = np.log10(inside) if figure.layout.xaxis.type == "log" else np.array(inside)
        assert low < places.min() and places.max() < high

    def test_on_a_logarithmic_axis_points_spread_alike(self) -> None:
        models = sized([heads_model("m-2l", [0.1] * 9, 2), heads_model("m-48l", [0.1] * 9, 48)])
        figure = plot_sizes(models, LAYERS, ["m"])
        assert figure.layout.xaxis.type == "log"
        x = np.array(series(figure, "head")[0].x, dtype=float).reshape(2, 9)
        np.testing.assert_allclose(x[0] / 2, x[1] / 48, rtol=1e-6)

    def test_seeds_stand_at_one_place_with_all_their_intervals(self) -> None:
        models = [heads_model(f"m-2l-seed{seed}", [0.1 * seed, 0.1 * seed + 0.2], 2, half=0.05) for seed in (1, 3)]
        figure = plot_sizes(sized([*models, heads_model("m-3l", [0.5, 0.6], 3)]), LAYERS, ["m"])
        (median,) = series(figure, "median over heads")
        assert list(median.x) == [2, 3]
        assert median.y[0] == pytest.approx(0.3)
        assert (median.error_y.array[0], median.error_y.arrayminus[0]) == (pytest.approx(0.15), pytest.approx(0.15))
        assert "2 training runs" in median.hovertext[0] and "training runs" not in median.hovertext[1]
        assert len(series(figure, "head")[0].y) == 6


class TestLines:
    def test_checkpoints_stand_against_training_tokens_alone(self) -> None:
        models = sized(
            [heads_model(name, [0.5], 2, 8, training_tokens=at) for name, at in (("m", 4096), ("m@0", 0), ("m@64", 64))]
        )
        models = [one._replace(parameters=None) for one in models]
        assert [one.model for one in against(models, LAYERS)] == ["m"]
        assert [one.model for one in against(models, WIDTH)] == ["m"]
        assert against(models, PARAMETERS) == []
        assert len(against(models, TOKENS)) == 3
        assert _names(strands(models, TOKENS)) == [["m@0", "m@64", "m"]]

    def test_seeds_through_training_are_one_line(self) -> None:
        models = [
            heads_model(f"m-2l-seed{seed}@{at}", [0.5], 2, training_tokens=at, base=f"m-2l-seed{seed}")
            for seed in (1, 2)
            for at in (0, 64)
        ]
        (line,) = strands(sized(models), TOKENS)
        assert [[one.model for one in runs] for runs in line] == [
            [f"m-2l-seed{seed}@{at}" for seed in (1, 2)] for at in (0, 64)
        ]

    def test_lines_join_models_that_differ_in_what_is_on_the_axis(self) -> None:
        models = sized([heads_model(f"toy-{n}l-w{width}", [0.5], n, width) for width in (128, 64) for n in (2, 3)])
        assert _names(strands(models, LAYERS)) == [["toy-2l-w128", "toy-3l-w128"], ["toy-2l-w64", "toy-3l-w64"]]
        assert _names(strands(models, WIDTH)) == [["toy-2l-w64", "toy-2l-w128"], ["toy-3l-w64", "toy-3l-w128"]]
        assert _names(strands(models, PARAMETERS)) == [["toy-2l-w64", "toy-3l-w64"], ["toy-2l-w128", "toy-3l-w128"]]
        filled = [trace for trace in plot_sizes(models, PARAMETERS, ["toy"]).data if trace.showlegend]
        assert [trace.name for trace in filled] == ["toy, width 64", "toy, width 128"]
        assert len({trace.marker.color for trace in filled}) == 2
        gpt2 = sized([heads_model(name, [0.5], n, 64 * n) for name, n in (("gpt2-xl", 48), ("gpt2", 12))])
        assert _names(strands(gpt2, LAYERS)) == [["gpt2", "gpt2-xl"]]
        # sizes that grow together are one line against parameters too
        assert _names(strands(gpt2, PARAMETERS)) == [["gpt2", "gpt2-xl"]]

    def test_a_family_may_have_nothing_on_an_axis(self) -> None:
        models = sized([heads_model("a", [0.5], 2), point("b", {"L0H0": 0.5}, n_layers=None)])
        assert strands([], LAYERS) == []
        assert {trace.name for trace in plot_sizes(models, LAYERS, ["a", "b"]).data if trace.showlegend} == {"a"}

    def test_models_that_nothing_tells_apart_stand_alone(self) -> None:
        models = sized([heads_model(f"m-{size}", [0.5], 2) for size in ("small", "large")])
        assert _names(strands(models, LAYERS)) == [["m-small"], ["m-large"]]

    def test_families_have_a_colour_a_symbol_and_one_entry_in_the_legend(self) -> None:
        names = ["gelu-2l", "gelu-3l", "solu-2l", "gpt2"]
        models = sized([heads_model(name, [0.5], 2 + at) for at, name in enumerate(names)])
        families = list(dict.fromkeys(one.family for one in models))
        assert families == ["gelu", "solu", "gpt2"]
        figure = plot_sizes(models, LAYERS, families)
        entries = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert entries == ["gelu", "solu", "gpt2", "median over heads", "largest of equally many heads", "a head"]
        filled = [trace for trace in figure.data if trace.showlegend]
        assert len({(trace.marker.color, trace.marker.symbol) for trace in filled}) == 3


class TestCard:
    def test_means_removed_come_first_and_the_axis_begins_with_what_differs(self) -> None:
        card = size_card(comparison_view([heads_model(f"m-w{width}", [0.5], 2, width) for width in (64, 1024)]))
        assert list(card.controls[0].options) == ["layers", "width", "parameters"]
        assert card.controls[0].chosen == 1
        assert (card.controls[1].label, card.controls[1].options[card.controls[1].chosen]) == (
            "Outputs",
            "means removed",
        )
        assert card.figures["1.1"].layout.xaxis.type == "log"
        assert set(card.figures) == {f"{at}.{outputs}" for at in range(3) for outputs in range(2)}

    def test_without_means_removed_there_is_no_choice_of_outputs(self) -> None:
        card = size_card(comparison_view([point("m-2l", {"L0H0": 0.5}, n_layers=2)]))
        assert ([control.label for control in card.controls], list(card.figures)) == (["Against"], ["0"])

    @pytest.mark.parametrize(
        "models",
        [
            [],
            [model_tables({}, {})],
            [point("m", {"L0H0": 0.5})],
            [point("m", {"L0H0": np.nan, "embed": 0.5}, n_layers=2)],
            [point("m@1", {"L0H0": 0.5}, n_layers=2)],
        ],
    )
    def test_without_a_model_of_known_size_the_card_says_so(self, models: list[ModelTables]) -> None:
        card = size_card(comparison_view(models))
        assert card.figures == {}
        assert "measured in no model of known size" in card.empty

    def test_what_is_not_known_is_said(self) -> None:
        models = [
            heads_model("a", [0.5], 2, training_tokens=7),
            heads_model("b", [0.5], 2),
            model_tables({"name": "c", "n_layers": 2}, {}),
        ]
        caption = size_card(comparison_view(models)).caption
        assert "No head was measured: c." in caption
        assert "not drawn against training tokens: b." in caption
        assert "against layers" not in caption


def _names(lines: list[list[Runs]]) -> list[list[str]]:
    return [[one.model for runs in line for one in runs] for line in lines]
