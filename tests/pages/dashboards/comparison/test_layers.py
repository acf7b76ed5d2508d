"""Erasure layer by layer: shares by the layer of the writer and of the eraser, and where they stand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.comparison.layers import (
    MOST_LINES,
    layer_lines,
    layers_card,
    looks_of,
    peaks,
    places,
    plot_layers,
    shares_by_layer,
)
from erasure_sweep.dashboards.comparison.mostly_gone import removed_card
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_checkpoints, fake_model, model_tables, point
from tests.support.fakes.views import comparison_view
from tests.support.fakes.written_pages import broken


def model(name: str = "toy-3l", layers: int = 3, width: int = 8, **about: object) -> ModelTables:
    """Shares by hand: the sum over erasing layers is what all later heads remove."""
    read = {
        ("embed", "attn0"): 0.5,
        ("embed", "attn1"): -0.1,
        ("pos_embed", "attn0"): -0.7,
        ("pos_embed", "attn2"): -0.2,
        ("L0H0", "attn1"): -0.3,
        ("L0H0", "attn2"): 0.1,
        ("L0H1", "attn1"): -0.1,
        ("MLP1", "attn2"): -0.05,
        ("L1H0", "attn2"): -0.6,
        ("L0H0", "L1H0"): -0.9,
    }
    rows = pd.DataFrame([(*pair, -beta, -beta / 2) for pair, beta in read.items()])
    rows.columns = pd.Index(["writer", "eraser", "share", "share_centred"])
    shares = {"embed": -0.4, "pos_embed": 0.9, "L0H0": 0.2, "L0H1": 0.1, "MLP1": 0.05, "L1H0": 0.6, "L2H0": np.nan}
    writers = pd.DataFrame({"writer": list(shares), "erased": list(shares.values())})
    writers["erased_centred"] = writers["erased"] / 2
    known = {"name": name, "n_layers": layers, "d_model": width, **about}
    return model_tables(known, {"writers": writers, "erasure_shares": rows})


class TestShares:
    def test_writers_stand_in_their_layers_and_embeddings_before(self) -> None:
        (line,) = layer_lines([model()], "writers")
        assert line.layers == [-1, 0, 1]
        np.testing.assert_allclose(line.strongest, [0.9, 0.2, 0.6])
        assert line.names == ["pos_embed", "L0H0", "L1H0"]
        np.testing.assert_allclose(line.median, [(0.9 - 0.4) / 2, (0.2 + 0.1) / 2, (0.05 + 0.6) / 2])
        assert line.counts == [2, 2, 2]

    def test_erasers_are_whole_layers(self) -> None:
        (line,) = layer_lines([model()], "erasers")
        assert line.layers == [0, 1, 2]
        np.testing.assert_allclose(line.strongest, [0.7, 0.3, 0.6])
        assert line.names == ["pos_embed", "L0H0", "L1H0"]
        np.testing.assert_allclose(line.median, [0.1, 0.1, (0.05 + 0.2) / 2])

    @pytest.mark.parametrize("side", ["writers", "erasers"])
    def test_means_removed(self, side: str) -> None:
        plain, centred = (layer_lines([model()], side, centred)[0] for centred in (False, True))
        np.testing.assert_allclose(centred.strongest, plain.strongest / 2)

    def test_writers_that_are_added_to_count_in_the_median(self) -> None:
        (line,) = layer_lines([point("m", {"L0H0": -0.2, "L0H1": -0.1, "L1H0": 0.3})], "writers")
        assert (list(line.strongest), list(line.median), line.counts) == (
            [-0.1, 0.3],
            [pytest.approx(-0.15), 0.3],
            [2, 1],
        )

    def test_what_adds_up_over_layers_is_what_all_later_heads_remove(self) -> None:
        fake = fake_model("f", 3, 2, n_tokens=24, d_model=24, reading=True)
        by_layer = shares_by_layer(fake, "erasers").groupby("writer")["share"].sum()
        erased = shares_by_layer(fake, "writers").set_index("writer")["share"]
        np.testing.assert_allclose(by_layer[erased.index], erased, atol=1e-6)


class TestFigure:
    def test_places_are_layers_or_run_from_0_to_1(self) -> None:
        (line,) = layer_lines([model()], "erasers")
        assert list(places(line, relative=True)) == [0.0, 0.5, 1.0]
        assert list(places(line, relative=False)) == [0.0, 1.0, 2.0]
        (line,) = layer_lines([model(layers=1)], "writers")
        assert places(line, relative=True)[0] < 0 == places(line, relative=True)[1]

    def test_no_line_leads_from_embeddings_to_layer_0(self) -> None:
        lines = layer_lines([model()], "writers")
        trace = plot_layers(lines, looks_of([model()]), "writers", median=False, relative=False).data[0]
        np.testing.assert_allclose(np.array(trace.y, dtype=float), [0.9, np.nan, 0.2, 0.6], rtol=1e-6)
        np.testing.assert_allclose(np.array(trace.x, dtype=float), [-1, np.nan, 0, 1])
        assert trace.hovertext[2] == "layer 0<br>L0H0 0.200"
        medians = plot_layers(lines, looks_of([model()]), "writers", median=True, relative=False).data[0]
        assert medians.hovertext[0] == "embeddings<br>median 0.250 of 2 writers"

    def test_peaks_are_counted_by_model(self) -> None:
        models = [
            model("a"),
            point("b", {"L0H0": 0.4, "L2H0": 0.5}, n_layers=4),
            point("c", {"L0H0": 0.6, "L2H0": 0.5}, n_layers=4),
            point("d", {"L0H0": 0.001}, n_layers=4),
        ]
        lines = layer_lines(models, "writers")
        assert list(peaks(lines, median=False).items()) == [(-1, 1), (0, 1), (2, 1)]
        figure = plot_layers(lines, looks_of(models), "writers", median=False, relative=True)
        assert figure.layout.meta["sentence"] == (
            "The most erased writer is in the embeddings in 1, layer 0 in 1 and layer 2 in 1 of 4 models."
        )

    def test_many_places_are_said_by_the_most_common(self) -> None:
        models = [
            point(f"m{at}", {f"L{layer}H0": 0.5}, n_layers=9) for at, layer in enumerate((0, 1, 2, 3, 4, 4, 5, 5))
        ]
        figure = plot_layers(layer_lines(models, "writers"), looks_of(models), "writers", median=False, relative=False)
        said = "layer 0 in 1, layer 1 in 1, layer 4 in 2, layer 5 in 2 and other layers in 2 of 8 models."
        assert figure.layout.meta["sentence"] == f"The most erased writer is in {said}"

    def test_colour_is_the_family_dash_the_width_symbol_the_depth(self) -> None:
        models = [model("a-3l"), model("a-3l-w16", width=16), model("b-3l"), model("a-2l", layers=2)]
        looks = looks_of(models)
        same = [
            [looks[name]["line"][key] for name in ("a-3l", "a-3l-w16", "b-3l", "a-2l")] for key in ("color", "dash")
        ]
        symbols = [looks[name]["marker"]["symbol"] for name in ("a-3l", "a-3l-w16", "b-3l", "a-2l")]
        assert [[value == row[0] for value in row] for row in (*same, symbols)] == [
            [True, True, False, True],
            [True, False, True, True],
            [True, True, True, False],
        ]

    def test_checkpoints_are_told_apart(self) -> None:
        models = [model(name, base="m") for name in ("m@0", "m@5", "m")]
        colours = [look["line"]["color"] for look in looks_of(models).values()]
        assert len(set(colours)) == 3
        assert "earlier in training" in layers_card(comparison_view(models)).caption


class TestGone:
    """How many writers are mostly gone at the end, against depth."""

    def test_widths_of_a_family_are_told_apart_and_the_axis_ends_near_the_data(self) -> None:
        models = []
        for name, width in (("a-2l", 8), ("a-2l-w16", 16), ("b-2l", 8)):
            rows = pd.DataFrame(
                {"writer": [f"L0H{head}" for head in range(5)], "written": 1.0, "remaining": [0.1, *[0.9] * 4]}
            )
            models.append(model_tables({"name": name, "n_layers": 2, "d_model": width}, {"writers": rows}))
        figure = removed_card(comparison_view(models)).figures["0"]
        assert [trace.name for trace in figure.data] == ["a, width 8", "a, width 16", "b"]
        one, other, _ = (trace.marker for trace in figure.data)
        assert one.symbol == other.symbol
        assert one.line.color == other.line.color == one.color != other.color
        assert 0.2 < figure.layout.yaxis.range[1] < 0.25


class TestCard:
    def test_every_choice_has_a_figure(self) -> None:
        card = layers_card(comparison_view([model("a-3l"), model("a-2l", layers=2)]))
        assert [len(control.options) for control in card.controls] == [2, 2, 2, 2]
        keys = {f"{a}.{b}.{c}.{d}" for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)}
        assert set(card.figures) == keys
        erasers = card.figures["1.1.0.1"].data[0]
        np.testing.assert_allclose(np.array(erasers.y, dtype=float), [0.35, 0.15, 0.3], rtol=1e-6)

    def test_models_of_one_depth_have_one_axis(self) -> None:
        card = layers_card(comparison_view([model("a-3l")]))
        assert [control.label for control in card.controls] == ["Layers", "Share of", "Outputs"]
        assert set(card.figures) == {f"{a}.{b}.{c}" for a in (0, 1) for b in (0, 1) for c in (0, 1)}

    def test_models_that_are_not_drawn_are_named(self) -> None:
        card = layers_card(comparison_view([model(), model_tables({"name": "lost"}, {})]))
        assert card.caption.endswith("lost.")
        many = [point(f"m{at}", {"L0H0": at / 10}, n_layers=2) for at in range(MOST_LINES + 1)]
        card = layers_card(comparison_view(many))
        assert card.caption.endswith("others are erased more: m0.")
        assert {len(figure.data) for figure in card.figures.values()} == {MOST_LINES, 0}

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_tables_that_hold_less(self, case: str) -> None:
        whole = fake_checkpoints("toy-2l", [0, 4096], n_layers=2, n_heads=2, n_tokens=12, d_model=16)[1]
        card = layers_card(comparison_view([model_tables(whole.about, broken(whole)[case])]))
        assert bool(card.figures) == (case in ("only writers", "all null", "infinite"))
        assert card.empty
