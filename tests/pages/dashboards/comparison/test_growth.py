"""Erasure against size: what is called a rise is clear of prompts and of the number of heads, and says of how many runs."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest

from erasure_sweep.dashboards.comparison.answers.at_a_glance import answers
from erasure_sweep.dashboards.comparison.answers.growth import (
    growths,
    in_words,
    larger,
    largest_trend,
    median_trend,
    medians,
    training_runs_in_words,
    verdict,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.sizes import drawn, grown, heads_model, more_heads_alone
from tests.support.fakes.tables import point
from tests.support.fakes.views import comparison_view


def said(models: list[ModelTables]) -> str:
    """The answers without their markup, all spaces alike."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<.*?>", "", answers(comparison_view(models)).bodies["0"])))


class TestMoreHeadsAlone:
    def test_the_page_does_not_say_that_erasure_rises(self) -> None:
        models = more_heads_alone()
        (line,) = growths(models, "layers")
        first, last = (runs[0].plain.largest[1] for runs in line.runs)
        # by the largest head alone, one would say that it nearly doubles
        assert last > 1.5 * first
        text = said(models)
        assert "rises in" not in text
        assert (
            "the median over them: neither rises nor falls clear of chance in 1 family, one training run each. "
            "The most erased head's share is larger in 1 of 1, as more heads alone can make it; apart from that it neither "
            "rises nor falls clear of chance in 1 family."
        ) in text
        assert re.search(
            r"of the last exceed the first's largest, by chance as many or more in [2-9]\d % of cases", text
        )

    def test_over_many_draws_hardly_any_is_called_a_rise(self) -> None:
        lines = [growths(more_heads_alone(seed), "layers")[0] for seed in range(400)]
        assert larger(lines, True) >= 0.8 * len(lines)
        for trend in (median_trend, largest_trend):
            found = [trend(line, True) for line in lines]
            assert found.count("rises") <= 0.04 * len(lines)
            assert found.count("falls") <= 0.04 * len(lines)


class TestGrowth:
    def test_rises_in_two_of_three_families(self) -> None:
        models = [*grown("a", 1, 0.25), *grown("b", 2, 0.25), *grown("c", 3, 0.0)]
        text = said(models)
        assert (
            "Depth. What is erased of a model's heads, the median over them: rises in 2 of 3 families, one training run each."
        ) in text
        assert ": yes" not in text
        assert "a, width 64, 2 → 3 → 4 layers: median" in text
        line = growths(models, "layers")[0]
        assert [runs[0].model for runs in line.runs] == ["a-2l", "a-3l", "a-4l"]
        assert (median_trend(line, True), largest_trend(line, True)) == ("rises", "rises")

    def test_two_lines_of_one_family_are_comparisons(self) -> None:
        models = [
            heads_model(f"toy-{n}l-w{width}", drawn(16, n * width, 0.3 * n), n, width)
            for n in (2, 4)
            for width in (64, 128)
        ]
        by_layers = growths(models, "layers")
        assert [(line.family, line.held, line.sizes) for line in by_layers] == [
            ("toy", "width\u00a064", [2, 4]),
            ("toy", "width\u00a0128", [2, 4]),
        ]
        assert verdict(by_layers, lambda line: median_trend(line, True)) == "rises in 2 of 2 comparisons"
        assert {line.held for line in growths(models, "width")} == {"2\u00a0layers", "4\u00a0layers"}

    @pytest.mark.parametrize(
        ("shifts", "half", "expected"),
        [
            ((0.0, 0.2, 0.4), 0.01, "rises"),
            ((0.4, 0.2, 0.0), 0.01, "falls"),
            # a step that leads clearly the other way, and one that prompts cannot tell
            ((0.0, 0.5, 0.4), 0.01, "neither"),
            ((0.0, 0.5, 0.4), 0.06, "rises"),
            # not clear of prompts, though clear of the choice of heads
            ((0.0, 0.2, 0.4), 0.25, "neither"),
            # without intervals numbers count as they are
            ((0.0, 0.2, 0.4), np.nan, "rises"),
            # too little to notice
            ((0.0, 0.0, 0.008), 0.0001, "neither"),
        ],
    )
    def test_trends_of_the_median(self, shifts: tuple[float, ...], half: float, expected: str) -> None:
        base = np.linspace(0, 0.2, 12)
        models = [heads_model(f"m-{2 + at}l", base + shift, 2 + at, half=half) for at, shift in enumerate(shifts)]
        (line,) = growths(models, "layers")
        assert median_trend(line, False) == expected

    def test_models_that_differ_in_more_are_not_compared(self) -> None:
        other = [
            heads_model("toy-2l", [0.2], 2, attn_only=True),
            heads_model("toy-3l", [0.4], 3),
            heads_model("toy-4l", [0.6], 4, training_tokens=5),
            heads_model("new-5l", [0.6], 5),
            heads_model("toy-6l@7", [0.6], 6, base="toy-6l"),
            point("toy-7l", {"L0H0": 0.7}, n_layers=7),
        ]
        assert growths(other, "layers") == growths(other, "width") == []
        # one place has two models that nothing but their names tells apart
        twice = [heads_model(name, [0.3], layers) for name, layers in (("m-2l", 2), ("m-2l-small", 2), ("m-3l", 3))]
        assert growths(twice, "layers") == []

    def test_sizes_that_grow_together_stand_by_parameters(self) -> None:
        models = [
            heads_model(name, drawn(16, 1, x), n, 64 * n) for name, n, x in (("g-xl", 4, 0.0), ("g-small", 2, 0.6))
        ]
        assert growths(models, "layers") == []
        (line,) = growths(models, "parameters")
        assert line.sizes == [2 * 128**2, 4 * 256**2]
        assert "Parameters. What is erased of a model's heads, the median over them: falls in 1 of 1 family" in said(
            models
        )


class TestSeeds:
    def runs(self, shifts: dict[int, tuple[float, ...]]) -> list[ModelTables]:
        return [
            heads_model(f"toy-{layers}l-seed{seed}", np.linspace(0, 0.2, 12) + shift, layers)
            for layers, by_seed in shifts.items()
            for seed, shift in enumerate(by_seed)
        ]

    def test_they_are_one_place_and_the_words_say_how_many(self) -> None:
        models = self.runs({2: (0.0, 0.1, 0.05), 3: (0.5, 0.4)})
        (line,) = growths(models, "layers")
        assert [[one.model for one in runs] for runs in line.runs] == [
            ["toy-2l-seed0", "toy-2l-seed1", "toy-2l-seed2"],
            ["toy-3l-seed0", "toy-3l-seed1"],
        ]
        # the mean over seeds, and everything from the lowest end to the highest
        assert medians(line, True)[0] == pytest.approx((0.15, 0.09, 0.21))
        assert median_trend(line, True) == "rises"
        assert training_runs_in_words([line]) == "2 to 3 training runs of each size"
        assert "rises in 1 of 1 family, 2 to 3 training runs of each size" in said(models)

    def test_what_seeds_explain_is_no_rise(self) -> None:
        models = self.runs({2: (0.0, 0.3), 3: (0.25, 0.5)})
        (line,) = growths(models, "layers")
        assert median_trend(line, True) == "neither"
        # though of the first seeds alone one would say so
        (alone,) = growths([models[0], models[2]], "layers")
        assert median_trend(alone, True) == "rises"


class TestWords:
    def test_a_line_by_hand(self) -> None:
        models = [heads_model("m-2l", [0.1, 0.2, 0.3], 2), heads_model("m-3l", [0.1, 0.2, 0.3, 0.4, 0.6], 3)]
        models[1].tables["writers"]["diluted"] = [0.0, 0.1, 0.2, 0.3, 0.4]
        (line,) = growths(models, "layers")
        words = in_words(line, "layers")
        assert words.models == "m, width\u00a064, 2\u00a0→\u00a03 layers"
        assert words.medians == "0.20 [0.19, 0.21]\u00a0→\u00a00.30 [0.29, 0.31]"
        assert (words.kept, words.diluted) == ("", "—\u00a0→\u00a00.20")
        # three of five: of the 10 draws 6 have the largest, 3 the second and 1 the third
        assert words.largest == (
            "largest of all 3\u00a0→\u00a05 heads 0.30\u00a0→\u00a00.60, of 3 of them drawn at random "
            "0.30\u00a0→\u00a00.51; 2 of the last exceed the first's largest, by chance as many or more in 36\u00a0% of cases"
        )

    def test_means_kept_are_said_where_they_go_another_way(self) -> None:
        models = [heads_model(f"m-{2 + at}l", np.linspace(0, 0.2, 12) + 0.3 * at, 2 + at) for at in range(2)]
        for model in models:
            model.tables["writers"]["erased"] = 0.25
        (line,) = growths(models, "layers")
        assert in_words(line, "layers").kept == "0.25\u00a0→\u00a00.25"
        text = said(models)
        assert "one training run each (with means kept it neither rises nor falls clear of chance in 1 family)." in text
        assert "(with means kept 0.25 → 0.25)" in text

    def test_many_sizes_are_said_by_their_ends(self) -> None:
        models = [heads_model(f"m-{n}l", [n / 10] * 4, n) for n in range(2, 10)]
        (line,) = growths(models, "layers")
        assert in_words(line, "layers").models == "m, width\u00a064, 2\u00a0→\u00a09 layers"
        assert in_words(line, "layers").medians == "0.20 [0.19, 0.21]\u00a0→\u00a00.90 [0.89, 0.91]"
