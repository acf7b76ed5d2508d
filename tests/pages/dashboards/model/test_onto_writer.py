"""Who writes along a writer and who against it, checked against tables computed from known vectors."""

from __future__ import annotations

import pandas as pd
import pytest

from erasure_sweep.dashboards.grids import grid_of
from erasure_sweep.dashboards.model.onto_writer import onto_writer, plot_onto
from erasure_sweep.dashboards.plots.layer_axis import layer_spans
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, components, fake_model

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


class TestOnto:
    def test_every_component_but_the_writer_in_order(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L1H2")
        assert shown.components == [label for label in Layout(4, 8).components if label not in ("L1H2", "attn1")]
        expected = cell(model.tables["component_projection"], "component", "L1H2", "L3H4", "q75")
        assert shown.q75[shown.components.index("L3H4")] == expected

    def test_later_are_those_that_can_have_read_it(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L1H2")
        first_later = shown.later.index(True)
        assert shown.components[first_later] == "MLP1"
        assert all(shown.later[first_later:])
        after_mlp = onto_writer(components(model), "MLP1")
        assert after_mlp.components[after_mlp.later.index(True)] == "L2H0"

    def test_figure_has_every_component_once_with_its_bars(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "L0H1")
        figure = plot_onto(shown)
        drawn = [name for trace in figure.data for name in trace.x]
        assert sorted(drawn) == sorted(shown.components)
        heads = next(trace for trace in figure.data if trace.name == "attention head")
        at = shown.components.index("L2H3")
        index = list(heads.x).index("L2H3")
        assert heads.y[index] == pytest.approx(shown.median[at], rel=1e-5)
        assert heads.error_y.array[index] == pytest.approx(shown.q75[at] - shown.median[at], rel=1e-4)
        assert heads.error_y.arrayminus[index] == pytest.approx(shown.median[at] - shown.q25[at], rel=1e-4)

    def test_layers_are_separated_and_named(self, model: ModelTables) -> None:
        shown = onto_writer(components(model), "embed")
        spans = layer_spans(shown.layers)
        assert [span.layer for span in spans] == [-1, 0, 1, 2, 3]
        assert (spans[1].first, spans[1].last) == (1, 11)
        figure = plot_onto(shown)
        assert [note.text for note in figure.layout.annotations] == [f"layer {layer}" for layer in range(4)]

    def test_sentence_names_the_heads_strongest_first(self) -> None:
        table = pd.DataFrame(
            {
                "writer": "L0H0",
                "component": ["embed", "L0H1", "L1H0", "L1H1", "MLP1"],
                "q25": [-1.0, -1.0, -0.4, -0.8, -1.0],
                "median": [-0.5, -0.5, -0.2, -0.6, -0.5],
                "q75": [-0.1, -0.1, -0.1, -0.2, -0.1],
            }
        )
        sentence = plot_onto(onto_writer(grid_of(table, "component"), "L0H0")).layout.meta["sentence"]
        assert sentence.endswith("with their medians: L1H1\u00a0−0.60, L1H0\u00a0−0.20.")
