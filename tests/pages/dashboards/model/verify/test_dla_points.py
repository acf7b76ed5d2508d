"""A writer's DLA and its erasers': points, fits, and the table of every effect."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.model.verify.dla_effects import dla_effects_table
from erasure_sweep.dashboards.model.verify.dla_points import EFFECTS, dla_cloud, dla_fits, line_words, plot_cloud
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.workers.tables.facts.verified import verified_groups
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import GROUP, group_of, only, tables_of


class TestDla:
    def test_fits_are_verifys_alone_in_order(self, model: ModelTables) -> None:
        fits = dla_fits(model, GROUP)
        assert [fit.effect for fit in fits] == list(EFFECTS)
        table = model.tables["dla_correlation"]
        row = only(table, writer="L0H1", eraser=GROUP.label, effect="value_input", stage="verify")
        fit = fits[2]
        assert (fit.r, fit.slope, fit.slope_low, fit.intercept, fit.n) == (
            *(row["r"], row["slope"], row["slope_low"], row["intercept"]),
            96,
        )
        # prompts of twelve tokens have no position 32
        assert fits[-1].n == 0

    def test_cloud_and_its_lines(self, model: ModelTables) -> None:
        shown = dla_cloud(model, GROUP, "v_composition")
        assert shown is not None
        table = model.tables["dla_points"]
        rows = table[
            (table["writer"] == "L0H1") & (table["eraser"] == GROUP.label) & (table["effect"] == "v_composition")
        ]
        np.testing.assert_array_equal(shown.x, rows["writer_dla"])
        tokens, perfect, best = plot_cloud(shown).data
        assert len(tokens.x) == 96
        np.testing.assert_allclose(np.asarray(perfect.y), -np.asarray(perfect.x))
        slope = (best.y[1] - best.y[0]) / (best.x[1] - best.x[0])
        assert slope == pytest.approx(shown.fit.slope, rel=1e-4)
        assert dla_cloud(model, GROUP, "without_pattern") is None

    def test_of_many_points_an_even_sample(self) -> None:
        keys = {"writer": "L0H0", "eraser": "L1H0", "effect": "full"}
        rows = [{**keys, "writer_dla": float(i), "eraser_dla": -i, "prompt": i, "position": 0} for i in range(2001)]
        shown = dla_cloud(tables_of(dla_points=rows), group_of("L0H0", "L1H0"), "full")
        assert shown is not None
        assert shown.x.tolist()[:3] == [0.0, 2.0, 4.0]
        assert (len(shown.x), shown.x[-1]) == (1000, 2000.0)
        figure = plot_cloud(shown)
        assert [trace.name for trace in figure.data] == ["token", "perfect erasure (slope −1)"]
        assert "no line was fitted" in figure.layout.meta["sentence"]

    def test_the_line_in_words(self, model: ModelTables) -> None:
        fit = dla_fits(model, GROUP)[0]._replace(slope=-0.613, intercept=-0.0521)
        assert line_words(fit) == "−0.61 x − 0.05"

    @pytest.mark.parametrize(
        ("slope", "low", "high", "said"),
        [
            (-0.2, -0.49, 0.11, "No reliable relation (slope −0.20, its interval [−0.49, 0.11] includes 0)."),
            (-0.2, -0.3, -0.1, "The erasers take back 0.20 of each logit."),
            (0.2, 0.1, 0.3, "The erasers add 0.20 of each logit."),
            (-0.2, np.nan, np.nan, "The erasers take back 0.20 of each logit."),
        ],
    )
    def test_a_slope_that_may_be_zero_is_no_relation(
        self, model: ModelTables, slope: float, low: float, high: float, said: str
    ) -> None:
        shown = dla_cloud(model, GROUP, "full")
        assert shown is not None
        fit = shown.fit._replace(slope=slope, slope_low=low, slope_high=high)
        assert plot_cloud(shown._replace(fit=fit)).layout.meta["sentence"].endswith(said)

    def test_table_has_every_effect_of_every_target(self, model: ModelTables, block: ModelTables) -> None:
        shown = dla_effects_table(ModelView(model))
        assert len(shown.rows) == len(EFFECTS) * len(verified_groups(model.tables))
        intervals = {row[3] for row in dla_effects_table(ModelView(block)).rows}
        assert intervals == {None}
