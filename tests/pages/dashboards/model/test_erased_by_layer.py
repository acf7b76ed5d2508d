"""How much of each writer is erased, layer by layer."""

from __future__ import annotations

import pandas as pd
import pytest

from erasure_sweep.dashboards.model.erased_by_layer import layer_strips, plot_erased_by_layer
from erasure_sweep.dashboards.plots.writer_strips import (
    ERASED,
    plot_strips,
    strip_points,
    strip_range,
    strongest_points,
)
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.tables.facts.erasure import top_writers, writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, row_of

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


class TestErasedByLayer:
    def test_a_strip_per_layer_holds_its_writers(self, model: ModelTables) -> None:
        strips = layer_strips(writers_by_rank(model.tables))
        assert [name for name, _ in strips] == ["embeddings", *(f"layer {layer}" for layer in range(4))]
        assert sorted(strips[2][1]["writer"]) == sorted([*(f"L1H{head}" for head in range(8)), "MLP1"])
        points = strip_points(strips, ERASED)
        assert points.groupby("group").size().to_dict() == {"embeddings": 2, "layer 0": 9, "layer 1": 8, "layer 2": 9}
        first = points[points["group"] == "layer 0"].iloc[0]
        assert first["value"] == row_of(model, first["writer"])["erased"]
        assert first["writer"] == top_writers(model.tables, 1)[0]

    def test_sentence_names_the_strongest_and_what_was_not_measured(self, model: ModelTables) -> None:
        figure = plot_erased_by_layer(writers_by_rank(model.tables))
        first = row_of(model, top_writers(model.tables, 1)[0])
        start = f"Most erased: {first['writer']}\u00a0{number(first['erased'])}"
        assert figure.layout.meta["sentence"].startswith(start)
        assert figure.layout.meta["sentence"].endswith("No later heads, or not measured: layer 3.")

    def test_only_noticeable_writers_are_named(self) -> None:
        rows = pd.DataFrame({"writer": ["L0H0", "L0H1", "L0H2"], "erased": [0.001, 0.6, -0.4]})
        points = strip_points([("layer 0", rows)], ERASED)
        assert strongest_points(points, ERASED, 5)["writer"].tolist() == ["L0H1"]
        figure = plot_strips(points, ["layer 0"], ERASED, named=5)
        assert sorted(name for trace in figure.data[1:] for name in trace.text) == ["", "", "L0H1"]

    def test_names_too_close_to_be_read_are_left_out(self) -> None:
        rows = pd.DataFrame({"writer": [f"L0H{i}" for i in range(4)], "erased": [0.8, 0.8, 0.8, 0.8]})
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
