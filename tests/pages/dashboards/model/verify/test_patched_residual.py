"""What is left of a writer when its erasers cannot read it."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.model.verify.patched_residual import BANDS, patched_states, plot_states
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import GROUP, group_of, only


class TestStates:
    @pytest.mark.parametrize("patch", ["group", "layer"])
    @pytest.mark.parametrize("ends", BANDS)
    def test_values(self, model: ModelTables, patch: str, ends: tuple[str, str]) -> None:
        shown = patched_states(model, GROUP, patch, ends)
        assert shown is not None
        assert shown.states == list(Layout(3, 3).states)
        row = only(
            model.tables["patched_residual_projection"],
            writer="L0H1",
            eraser=GROUP.label,
            patch=patch,
            state="resid_mid2",
        )
        at = shown.states.index("resid_mid2")
        assert (shown.clean[at], shown.patched[at]) == (row["clean_median"], row["patched_median"])
        assert [values[at] for values in shown.patched_band] == [row[f"patched_{end}"] for end in ends]

    def test_figure_has_a_band_and_a_line_for_each_run(self, model: ModelTables) -> None:
        shown = patched_states(model, GROUP, "group", BANDS[0])
        assert shown is not None
        figure = plot_states(shown)
        assert [trace.fill for trace in figure.data] == ["toself", None, "toself", None]
        assert [figure.data[at].line.dash for at in (1, 3)] == ["solid", "dash"]
        np.testing.assert_allclose(figure.data[3].y, shown.patched, rtol=1e-6)

    def test_none_where_there_are_no_rows(self, model: ModelTables) -> None:
        assert patched_states(model, group_of("MLP2", "L2H0"), "group", BANDS[0]) is None
