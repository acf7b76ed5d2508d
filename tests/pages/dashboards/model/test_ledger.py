"""The ledger of a writer: it adds up, and says what does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.grids import grid_of
from erasure_sweep.dashboards.model.ledger import ledger, plot_ledger
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import components, fake_model, row_of

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


class TestLedger:
    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("writer", ["embed", "pos_embed", "L0H1", "MLP0", "L2H2", "MLP3"])
    def test_adds_up_to_the_writers_table(self, model: ModelTables, writer: str, centred: bool) -> None:
        shown = ledger(components(model), model.tables["writers"], writer, centred)
        suffix = "_centred" if centred else ""
        row = row_of(model, writer)
        assert shown.written == row[f"written{suffix}"]
        assert shown.remaining == row[f"remaining{suffix}"]
        assert shown.gap == pytest.approx(0, abs=1e-9)
        up = sum(step.value for step in shown.steps if step.value > 0)
        down = sum(step.value for step in shown.steps if step.value < 0)
        assert up == pytest.approx(row[f"reinforced{suffix}"], abs=1e-9)
        assert down == pytest.approx(row[f"opposed{suffix}"], abs=1e-9)

    def test_steps_by_hand(self) -> None:
        table = pd.DataFrame(
            {
                "writer": "L0H0",
                "component": ["embed", "L0H1", "MLP0", "L1H0", "L1H1", "b_O1", "attn1", "MLP1"],
                "beta": [0.1, 0.2, 0.3, -0.5, -0.1, 0.05, -0.55, -0.2],
            }
        )
        writers = pd.DataFrame({"writer": ["L0H0"], "written": [1.3], "remaining": [0.85]})
        shown = ledger(grid_of(table, "component"), writers, "L0H0")
        assert [step.label for step in shown.steps] == ["MLP0", "attn1 +", "attn1 −", "MLP1"]
        np.testing.assert_allclose([step.value for step in shown.steps], [0.3, 0.05, -0.6, -0.2])
        assert shown.steps[2].terms == ["L1H0 -0.500", "L1H1 -0.100"]
        assert shown.gap == pytest.approx(0)

    def test_figure_is_a_waterfall_from_written_to_remaining(self, model: ModelTables) -> None:
        shown = ledger(components(model), model.tables["writers"], "L0H1")
        bars = plot_ledger(shown).data[0]
        assert bars.x[0], bars.x[-1] == ("written", "remaining")
        assert list(bars.measure) == ["absolute", *["relative"] * len(shown.steps), "absolute"]
        assert sum(bars.y[:-1]) == pytest.approx(bars.y[-1], abs=1e-5)

    def test_missing_terms_are_said(self, model: ModelTables) -> None:
        table = model.tables["component_projection"]
        partial = grid_of(table[~table["component"].str.startswith("L1")], "component")
        shown = ledger(partial, model.tables["writers"], "pos_embed")
        assert abs(shown.gap) > 0.01
        assert "lacks terms" in plot_ledger(shown).layout.meta["sentence"]

    @pytest.mark.parametrize("centred", [False, True])
    def test_what_is_taken_out_and_written_back_is_told(self, model: ModelTables, centred: bool) -> None:
        suffix = "_centred" if centred else ""
        writers = model.tables["writers"].assign(
            **{f"erased{suffix}": 0.75, f"remaining{suffix}": 1.0, f"written{suffix}": 1.0}
        )
        shown = ledger(components(model), writers, "L0H1", centred)
        assert "0.75 of it is taken out and 0.75 is written back" in plot_ledger(shown).layout.meta["sentence"]

    def test_a_zero_writer_has_an_empty_ledger_that_says_so(self, model: ModelTables) -> None:
        shown = ledger(components(model), model.tables["writers"], ZERO)
        assert np.isnan(shown.written)
        figure = plot_ledger(shown)
        assert len(figure.data[0].x) == 0
        assert "was not measured" in figure.layout.meta["sentence"]
