"""What is left of a writer, checked against tables computed from known vectors and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.model.layer_presence import layer_steps, plot_layer, thinned
from erasure_sweep.dashboards.model.presence import plot_presence, presence
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, fake_model, residual

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestPresence:
    @pytest.mark.parametrize(
        ("writer", "state"),
        [("embed", "resid_pre0"), ("pos_embed", "resid_pre0"), ("L0H2", "resid_mid0"), ("MLP0", "resid_post0")],
    )
    def test_where_it_writes(self, model: ModelTables, writer: str, state: str) -> None:
        shown = presence(residual(model), writer)
        assert shown.written_at is not None
        assert shown.states[shown.written_at] == state

    def test_where_a_head_without_mlps_writes(self, attn_only: ModelTables) -> None:
        shown = presence(residual(attn_only), "L1H0")
        assert shown.states == ["resid_pre0", "resid_post0", "resid_post1"]
        assert shown.written_at == 2

    def test_values_and_figure(self, model: ModelTables) -> None:
        shown = presence(residual(model), "L0H1")
        table = model.tables["residual_projection"]
        assert shown.median[-1] == cell(table, "state", "L0H1", "resid_post3", "median")
        assert shown.q87_5[2] == cell(table, "state", "L0H1", "resid_post0", "q87_5")
        figure = plot_presence([shown])
        line = figure.data[-1]
        assert list(line.x) == shown.states
        np.testing.assert_allclose(line.y, shown.median, rtol=1e-6)
        assert [trace.fill for trace in figure.data] == ["toself", "toself", None, None]
        seen = figure.data[-2]
        assert shown.effective[-1] == cell(table, "state", "L0H1", "resid_post3", "effective_median")
        assert seen.line.dash == "dot"
        assert np.isnan(seen.y[0])
        np.testing.assert_allclose(seen.y[1:], shown.effective[1:], rtol=1e-6)
        assert "as a reader sees it" in figure.layout.meta["sentence"]
        assert figure.layout.shapes[0].x0 == 0.5
        assert "L0H1: median" in figure.layout.meta["sentence"]

    def test_together_each_writer_has_one_band_and_two_lines_one_of_them_in_the_legend(
        self, model: ModelTables
    ) -> None:
        shown = [presence(residual(model), writer) for writer in top_writers(model.tables, 5)]
        figure = plot_presence(shown)
        named = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
        assert named == top_writers(model.tables, 5)
        assert len(figure.data) == 15

    def test_a_zero_writer_says_so(self, model: ModelTables) -> None:
        figure = plot_presence([presence(residual(model), ZERO)])
        assert "was not measured" in figure.layout.meta["sentence"]

    def test_layer_steps_hold_every_writer_once(self, model: ModelTables) -> None:
        steps = layer_steps(residual(model))
        assert [name for name, _ in steps] == ["embeddings", "layer 0", "layer 1", "layer 2", "layer 3"]
        assert steps[0][1] == ["embed", "pos_embed"]
        assert steps[2][1] == [*(f"L1H{head}" for head in range(8)), "MLP1"]
        figure = plot_layer([presence(residual(model), writer) for writer in steps[2][1]])
        assert [trace.name for trace in figure.data] == steps[2][1]
        assert f"zero everywhere: {ZERO}" in figure.layout.meta["sentence"]

    def test_no_two_writers_of_a_layer_look_alike(self) -> None:
        wide = fake_model("wide", 1, 25, n_tokens=6)
        figure = plot_layer([presence(residual(wide), f"L0H{head}") for head in range(25)])
        looks = {(t.line.color, t.line.dash, t.marker.symbol) for t in figure.data}
        assert len(looks) == 25

    def test_of_very_many_states_some_are_drawn_and_all_where_a_writer_is_first(self, model: ModelTables) -> None:
        whole = [presence(residual(model), writer) for writer in layer_steps(residual(model))[3][1]]
        shown = thinned(whole, 4)
        assert {tuple(one.states) for one in shown} == {
            ("resid_pre0", "resid_post1", "resid_mid2", "resid_post2", "resid_post3")
        }
        for before, after in zip(whole, shown, strict=True):
            assert before.written_at is not None and after.written_at is not None
            assert after.states[after.written_at] == before.states[before.written_at]
            assert after.median.tolist() == [before.median[before.states.index(state)] for state in after.states]
