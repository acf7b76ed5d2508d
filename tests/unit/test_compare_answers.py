"""The answers at the top of a comparison: every number in them is one that the tables hold, and nothing is claimed beyond."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from dashboards.answers import answers, arisen, distrust, halved, least_trusted_heads, most_erased_writers
from dashboards.growth import Growth, growths, in_words, trend, verdict
from dashboards.homes import Home
from dashboards.tables import ModelTables
from dashboards.training import trained
from tests.fake_tables import fake_checkpoints, fake_model, point
from tests.written_pages import NASTY, broken


def sized(name: str, shares: dict[str, float], layers: int, width: int, **about: object) -> ModelTables:
    return point(name, shares, n_layers=layers, d_model=width, n_params=layers * width**2, **about)


def family() -> list[ModelTables]:
    """Erasing of heads grows with depth at both widths, and with width in two layers alone; embeddings confuse it."""
    return [
        sized("toy-1l", {"pos_embed": 0.9, "L0H0": np.nan}, 1, 64),
        sized("toy-3l", {"pos_embed": -0.2, "L0H0": 0.5, "L1H0": 0.3, "L1H1": -0.4}, 3, 64),
        sized("toy-2l", {"pos_embed": 0.7, "L0H0": 0.25, "MLP0": 0.6}, 2, 64),
        sized("toy-2l-w128", {"L0H0": 0.4, "L0H1": 0.004}, 2, 128),
        sized("toy-3l-w128", {"L0H0": 0.45, "L1H0": -0.1}, 3, 128),
    ]


def said(models: list[ModelTables], homes: dict[str, Home] | None = None) -> str:
    """The answers without their markup, all spaces alike."""
    bodies = answers(models, homes or {}).bodies
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", "", bodies["0"])) if bodies else ""


class TestGrowth:
    def test_lines_differ_in_one_size_alone_and_heads_alone_count(self) -> None:
        narrow, wide = growths(family(), "layers")
        assert (narrow.family, narrow.held, narrow.sizes, narrow.heads) == ("toy", "width\u00a064", [2, 3], [0.25, 0.5])
        assert narrow.means == [pytest.approx(0.25), pytest.approx(0.4)]
        assert (wide.held, wide.sizes, wide.heads) == ("width\u00a0128", [2, 3], [0.4, 0.45])
        assert wide.means == [pytest.approx((0.4 + 0.004) / 2), pytest.approx(0.45)]
        by_width = {line.held: line.heads for line in growths(family(), "width")}
        assert by_width == {"3\u00a0layers": [0.5, 0.45], "2\u00a0layers": [0.25, 0.4]}

    def test_models_that_differ_in_more_are_not_compared(self) -> None:
        other = [
            sized("toy-2l", {"L0H0": 0.2}, 2, 64, attn_only=True),
            sized("toy-3l", {"L0H0": 0.4}, 3, 64),
            sized("toy-4l", {"L0H0": 0.6}, 4, 64, training_tokens=5),
            sized("new-5l", {"L0H0": 0.6}, 5, 64),
            sized("toy-6l@7", {"L0H0": 0.6}, 6, 64, base="toy-6l"),
            point("toy-7l", {"L0H0": 0.7}, n_layers=7),
        ]
        assert growths(other, "layers") == growths(other, "width") == []
        # one place has two models that nothing tells apart
        twice = [
            sized(name, {"L0H0": 0.3}, layers, 64) for name, layers in (("m-2l", 2), ("m-2l-small", 2), ("m-3l", 3))
        ]
        assert growths(twice, "layers") == []

    def test_sizes_that_grow_together_stand_by_parameters(self) -> None:
        models = [sized(name, {"L0H0": x}, n, 64 * n) for name, n, x in (("g-xl", 4, 0.2), ("g-small", 2, 0.6))]
        assert growths(models, "layers") == []
        (line,) = growths(models, "parameters")
        assert (line.sizes, line.heads) == ([2 * 128**2, 4 * 256**2], [0.6, 0.2])
        assert "Parameters: no, it shrinks." in said(models)

    @pytest.mark.parametrize(
        ("shares", "expected"),
        [
            ([0.1, 0.2, 0.9], "grows"),
            ([0.1, 0.095, 0.9], "grows"),
            ([0.1, 0.05, 0.9], "neither"),
            ([0.9, 0.2], "shrinks"),
            ([0.2, 0.3, 0.1], "neither"),
            ([0.2, 0.205], "neither"),
        ],
    )
    def test_trends(self, shares: list[float], expected: str) -> None:
        assert trend(shares) == expected

    def test_verdicts_count_every_line(self) -> None:
        def lines(*ends: float) -> list[Growth]:
            return [Growth("m", "", [1, 2], [0.5, end], [0.5, 0.5]) for end in ends]

        assert verdict(lines(0.9)) == "yes, it grows"
        assert verdict(lines(0.9, 0.8)) == "yes, it grows in all 2 comparisons"
        assert verdict(lines(0.1, 0.2, 0.3)) == "no, it shrinks in all 3 comparisons"
        assert verdict(lines(0.9, 0.1, 0.5)) == "grows in 1, shrinks in 1, wavers or stays in 1 of 3 comparisons"
        assert verdict(lines(0.5)) == "neither grows nor shrinks throughout"
        assert verdict(lines(0.9), lambda line: line.means) == "neither grows nor shrinks throughout"

    def test_many_sizes_are_said_by_their_ends(self) -> None:
        line = Growth("m", "width\u00a08", list(range(1, 9)), [at / 10 for at in range(8)], [0.0] * 8)
        assert in_words(line, "layers") == ("m, width\u00a08, 1\u00a0→\u00a08 layers", "0.00\u00a0→\u00a00.70")


class TestErased:
    def test_the_most_erased_writer_and_the_heads_after_it(self) -> None:
        found = [(one.model, one.writer, one.share) for one in most_erased_writers(family())]
        assert found == [
            ("toy-1l", "pos_embed", 0.9),
            ("toy-3l", "L0H0", 0.5),
            ("toy-3l-w128", "L0H0", 0.45),
            ("toy-2l-w128", "L0H0", 0.4),
        ]
        # the most erased writer is not named twice where it is a head
        heads = most_erased_writers([point("m", {"L0H0": 0.6, "embed": 0.2, "L0H1": 0.3, "L0H2": 0.009})])
        assert [one.writer for one in heads] == ["L0H0", "L0H1"]

    def test_erasers_stand_strongest_first(self) -> None:
        model = point("m", {"L0H0": 0.6})
        model.tables["writers"] = model.tables["writers"].assign(
            erasers="L1H0+L1H1+L2H0", erased_by_reading_centred=0.41, rank=1
        )
        rows = {"L1H0": -0.1, "L1H1": -0.4, "L2H0": -0.2, "later": -0.9}
        model.tables["v_composition"] = pd.DataFrame({"writer": "L0H0", "eraser": list(rows), "beta": rows.values()})
        assert most_erased_writers([model])[0][2:] == (0.6, 0.41, ["L1H1", "L2H0", "L1H0"])
        assert "L0H0 of m loses 0.60 (0.41 with means removed), by L1H1, L2H0 and L1H0" in said([model])

    def test_how_many_models_have_a_head_half_gone(self) -> None:
        assert halved(family()) == (1, 4)
        assert "A head loses half of its output or more in 1 of 4 models." in said(family())

    def test_nothing_erased_and_nothing_measured_are_told_apart(self) -> None:
        assert "none: no writer loses a hundredth of its output" in said([point("m", {"L0H0": 0.002, "embed": -1.0})])
        unmeasured = said([point("a", {"L0H0": np.nan}), ModelTables({"name": "b"}, {})])
        assert "Erasing by reading was not measured in any of these models." in unmeasured
        assert "Erased: not measured." in unmeasured


def verified(name: str, words: dict[str, str | None], slopes: dict[str, float] | None = None) -> ModelTables:
    table = pd.DataFrame({"writer": list(words), "trust": list(words.values())})
    table["effect_slope"] = [(slopes or {}).get(writer, np.nan) for writer in words]
    return ModelTables({"name": name}, {"dla_trust": table})


class TestTrust:
    def test_components_are_counted_by_their_words(self) -> None:
        models = [
            verified("a", {"L0H0": "cancelled", "L0H1": "trust", "MLP0": "partly cancelled", "L1H0": None}),
            verified("b", {"L0H0": "reversed", "embed": "partly cancelled"}),
            ModelTables({"name": "c"}, {}),
        ]
        assert distrust(models) == (5, [("a", "L0H0"), ("b", "L0H0")], 2, ["c"])
        text = said(models)
        assert "that of 2 of 5 components is cancelled or reversed by what comes later: L0H0 of a and b;" in text
        assert "of 2 more only a part (25 to 75 %) survives." in text
        assert "Not measured in 1 of the models." in text
        assert "which to trust was not measured" in said(family())

    def test_the_heads_of_which_least_survives(self) -> None:
        words = dict.fromkeys(("L0H0", "L0H1", "MLP0", "L1H0"), "partly cancelled") | {"L1H1": "trust"}
        slopes = {"L0H0": 0.5, "L0H1": 0.3, "MLP0": 0.1, "L1H0": np.nan, "L1H1": 0.8}
        found = least_trusted_heads([verified("a", words, slopes)])
        assert found == [("a", "L0H1", 0.3), ("a", "L0H0", 0.5)]


class TestTraining:
    def test_when_half_of_it_had_arisen(self) -> None:
        shares = {0: (-0.1, 0.0), 8: (0.3, 0.5), 64: (0.6, 0.4), 512: (0.8, 0.9)}
        models = [
            point("m" if at == 512 else f"m@{at}", {"embed": one, "L0H0": two}, training_tokens=at)
            for at, (two, one) in shares.items()
        ]
        (one,) = trained(models)
        assert arisen(one) == [("embed", 0.0, 0.9, 1), ("L0H0", -0.1, 0.8, 2)]
        text = said(models)
        assert "m, 4 points, 0 to 512 tokens:" in text
        assert "embed: 0.00 → 0.90, half of that first passed between 0 and 8 tokens" in text
        assert "L0H0: −0.10 → 0.80, half of that first passed between 8 and 64 tokens" in text
        assert "mean over the writers that lose anything: 0.00 → 0.85" in text
        # the other answers are on the final weights alone
        assert "depth and width are the same in all" in text
        assert "m@8" not in text

    def test_what_was_there_from_the_start_and_what_never_comes(self) -> None:
        models = [point("m@1", {"L0H0": 0.4}, training_tokens=1), point("m", {"L0H0": 0.5}, training_tokens=2)]
        assert "at least half of that at the first point already" in said(models)
        models = [point("m@1", {"L0H0": 0.4}, training_tokens=1), point("m", {"L0H0": -0.5}, training_tokens=2)]
        assert "no writer is erased after 2 tokens" in said(models)
        assert "Not measured: that takes two points" in said(family())

    def test_trust_through_training(self) -> None:
        words = {"m@1": "trust", "m": "cancelled"}
        models = [
            ModelTables(one.about, one.tables | verified("", {"L0H0": words[one.about["name"]]}).tables)
            for one in (point("m@1", {"L0H0": 0.1}, training_tokens=1), point("m", {"L0H0": 0.5}, training_tokens=2))
        ]
        assert "DLA cancelled or reversed: 0 → 1, partly cancelled: 0 → 0" in said(models)


class TestAnswers:
    def test_every_writer_leads_to_its_place_on_its_models_page(self) -> None:
        body = answers(family(), {"toy-3l": Home(page="toy-3l/index.html")}).bodies["0"]
        assert '<a href="toy-3l/index.html#writer=L0H0">L0H0</a> of toy-3l' in body
        assert re.findall('href="#(.*?)"', body) == ["size", "layers", "strongest", "causal"]

    def test_depth_and_width_in_words(self) -> None:
        text = said(family())
        assert "Depth: yes, it grows in all 2 comparisons." in text
        assert "toy, width 64, 2 → 3 layers: 0.25 → 0.50" in text
        assert "Width: grows in 1, shrinks in 1 of 2 comparisons." in text
        assert "One model alone cannot say" in said(family()[1:2])
        assert "not compared, since no two models" in said([family()[1], point("other", {"L0H0": 0.1})])

    def test_hundreds_of_models_stay_short(self) -> None:
        models = [
            ModelTables(
                sized(f"f{at}-{layers}l", {"L0H0": 0.1 * layers}, layers, 8).about,
                sized("", {"L0H0": 0.1 * layers}, layers, 8).tables | verified("", {"L0H0": "reversed"}).tables,
            )
            for at in range(100)
            for layers in (2, 3)
        ]
        checkpoints = [point(f"t{at}@{n}", {"L0H0": 0.5}, training_tokens=n) for at in range(50) for n in range(1, 5)]
        text = said([*models, *checkpoints])
        assert len(text) < 4000
        assert "Depth: yes, it grows in all 100 comparisons." in text
        assert "96 more comparisons" in text
        assert "47 more trainings are in the figure." in text

    def test_names_are_escaped(self) -> None:
        models = [sized(NASTY, {"L0H0": 0.5, NASTY: 0.9}, 2, 8), point(f"{NASTY}@1", {"L0H0": 0.1}, training_tokens=1)]
        models.append(verified(f"{NASTY}2", {NASTY: "cancelled"}))
        body = answers(models, {NASTY: Home(page='x"><img src=y>')}).bodies["0"]
        assert "<img" not in body
        assert "<script" not in body
        assert "&lt;img" in body

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_tables_that_hold_less(self, case: str) -> None:
        whole = fake_checkpoints("toy-2l", [0, 4096], n_layers=2, n_heads=2, n_tokens=12, d_model=16)
        less = [ModelTables(model.about, broken(model)[case]) for model in whole]
        for models in (less, [whole[0], less[1]], less[:1]):
            assert "nan" not in said(models)

    def test_no_models_have_no_answers(self) -> None:
        assert answers([], {}).bodies == {}
