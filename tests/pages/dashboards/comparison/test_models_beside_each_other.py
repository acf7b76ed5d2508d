"""Models beside each other in their writers: strips, depth, what is mostly gone, and the table of models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.depth import depth_lines, plot_depth
from erasure_sweep.dashboards.comparison.mostly_gone import mostly_gone, plot_removed
from erasure_sweep.dashboards.comparison.overview import overview
from erasure_sweep.dashboards.comparison.strips.strip_cards import named_writers
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.plots.writer_strips import OPPOSED, plot_strips, strip_points
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, fake_model, model_tables, row_of
from tests.support.fakes.views import comparison_view

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


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
        shown = mostly_gone([model_tables({"name": "m", "n_layers": 1}, {"writers": writers})])
        assert shown[0][:4] == ("m", 1, 3, pytest.approx(2 / 3))
        assert plot_removed(shown).data[0].y[0] == pytest.approx(2 / 3)

    def test_removed_without_writers_is_nan(self) -> None:
        shown = mostly_gone([model_tables({"name": "m"}, {})])
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
        assert overview(comparison_view([model_tables({}, {})])).rows == [
            ["unnamed model", None, None, None, None, None]
        ]

    def test_names_are_told_apart(self, model: ModelTables) -> None:
        other = model_tables({**model.about.to_json(), "folder": "four-2"}, {})
        assert display_names([model, other]) == ["four (four)", "four (four-2)"]
