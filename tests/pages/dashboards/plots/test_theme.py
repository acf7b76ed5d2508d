"""How figures look: ranges that tails cannot flatten, strings from data as text."""

from __future__ import annotations

import json

import pytest

from erasure_sweep.dashboards.model.maps.heatmaps import heatmap, plot_heatmap
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, residual

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


class TestPlotly:
    def test_figures_are_plain_json(self, model: ModelTables) -> None:
        figure = plot_heatmap(heatmap(residual(model), []), "state")
        assert json.loads(figure.to_json())["layout"]["coloraxis"]["cmin"] == -1
