"""Each later head as it is and when it cannot read the writer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.grids import reading_of
from erasure_sweep.dashboards.model.clean_and_patched import clean_and_patched, plot_clean_and_patched
from erasure_sweep.dashboards.plots.writer_maps import causal_map
from erasure_sweep.dashboards.wording import LATER_NAME, number
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import cell, fake_model, model_tables, row_of

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


def composition(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """A table onto L0H0 by hand: eraser, clean and patched median; quartiles are 0.1 to either side."""
    table = pd.DataFrame(rows, columns=["eraser", "clean_median", "patched_median"]).assign(writer="L0H0")
    for run in ("clean", "patched"):
        table[f"{run}_q25"], table[f"{run}_q75"] = table[f"{run}_median"] - 0.1, table[f"{run}_median"] + 0.1
    return table.assign(beta=table["clean_median"] - table["patched_median"], beta_centred=0.0)


BY_HAND = composition(
    ("L1H0", -0.3, 0.0), ("L1H1", -0.2, -0.2), ("attn1", -0.5, -0.2), ("L2H0", -0.4, 0.1), ("later", -0.9, -0.1)
)


def reading_by_hand(table: pd.DataFrame = BY_HAND) -> ModelTables:
    return model_tables({}, {"v_composition": table})


class TestCleanAndPatched:
    def test_every_later_head_with_its_values(self, model: ModelTables) -> None:
        shown = clean_and_patched(reading_of(model), "L1H2", row_of(model, "L1H2")["erasers"])
        assert shown.labels == [label for label in Layout(4, 8).heads if label[1] in "23"]
        table, at = model.tables["v_composition"], shown.labels.index("L3H4")
        assert shown.clean.q75[at] == cell(table, "eraser", "L1H2", "L3H4", "clean_q75")
        assert shown.patched.median[at] == cell(table, "eraser", "L1H2", "L3H4", "patched_median")
        assert shown.removed == row_of(model, "L1H2")["erased"]

    def test_whole_layers_end_with_all_later_heads(self, model: ModelTables) -> None:
        shown = clean_and_patched(reading_of(model), "embed", None, "layers")
        assert shown.labels == ["attn0", "attn1", "attn2", "attn3", "later"]
        figure = plot_clean_and_patched(shown)
        assert figure.layout.xaxis.ticktext[-1] == LATER_NAME

    def test_of_many_heads_those_that_change_most_are_drawn_in_order(self) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0", most=2)
        assert shown.labels == ["L1H0", "L2H0"]
        assert shown.left_out == 1
        assert (
            "Drawn are the 2 heads that change most; 1 others" in plot_clean_and_patched(shown).layout.meta["sentence"]
        )

    def test_figure_puts_clean_beside_patched(self) -> None:
        figure = plot_clean_and_patched(clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0"))
        clean, patched = figure.data
        assert [round(float(x)) for x in clean.x] == [0, 1, 2]
        assert (np.asarray(clean.x) < np.asarray(patched.x)).all()
        np.testing.assert_allclose(clean.y, [-0.3, -0.2, -0.4], rtol=1e-6)
        np.testing.assert_allclose(patched.y, [0.0, -0.2, 0.1], rtol=1e-6)
        np.testing.assert_allclose(clean.error_y.array, 0.1, rtol=1e-5)
        assert list(figure.layout.xaxis.ticktext) == ["<b>L1H0</b>", "L1H1", "<b>L2H0</b>"]
        # a line between the layers, and a shade behind each eraser
        assert [shape.type for shape in figure.layout.shapes] == ["line", "rect", "rect"]
        assert [note.text for note in figure.layout.annotations] == ["layer 1", "layer 2"]

    def test_sentence_names_the_erasers_strongest_first(self) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", "L1H0+L2H0")
        sentence = plot_clean_and_patched(shown).layout.meta["sentence"]
        assert sentence.startswith("Because they read it, later heads together take out 0.80 of L0H0's output")
        assert sentence.endswith(": L2H0\u00a0−0.40\u00a0→\u00a00.10, L1H0\u00a0−0.30\u00a0→\u00a00.00.")

    def test_strongest_is_what_is_written_because_of_reading(self) -> None:
        table = composition(("L1H0", -0.9, -0.8), ("L1H1", -0.2, 0.4), ("L2H0", 0.1, 0.4))
        shown = clean_and_patched(reading_of(reading_by_hand(table)), "L0H0", "L1H0+L1H1+L2H0")
        assert shown.erasers == ["L1H1", "L2H0", "L1H0"]

    @pytest.mark.parametrize(("erasers", "said"), [("", True), (None, False), (float("nan"), False)])
    def test_none_is_said_only_where_it_was_measured(self, erasers: object, said: bool) -> None:
        shown = clean_and_patched(reading_of(reading_by_hand()), "L0H0", erasers)
        assert ("No head qualifies" in plot_clean_and_patched(shown).layout.meta["sentence"]) is said

    def test_a_named_group_stands_beside_the_layers(self) -> None:
        group = "L1H0+L1H1+L2H0+L2H1"
        grouped = fake_model("g", 3, 2, n_tokens=24, reading=True, groups={"L0H1": tuple(group.split("+"))})
        grid = reading_of(grouped)
        shown = clean_and_patched(grid, "L0H1", "", "layers")
        assert shown.labels == ["attn1", "attn2", "later", group]
        figure = plot_clean_and_patched(shown)
        assert list(figure.layout.xaxis.ticktext)[2:] == [LATER_NAME, group]
        moved = f"{number(shown.clean.median[3])}\u00a0→\u00a0{number(shown.patched.median[3])}"
        assert f"The group {group}: {moved}." in figure.layout.meta["sentence"]
        # of other writers the group is not measured, and no map has a column for it
        assert clean_and_patched(grid, "L0H0", "", "layers").labels == ["attn1", "attn2", "later"]
        assert causal_map(grid, [], "layers").columns == ["attn0", "attn1", "attn2"]
        assert causal_map(grid, []).columns == list(Layout(3, 2).heads)

    def test_an_unmeasured_writer_has_nothing_to_show(self, model: ModelTables) -> None:
        assert ZERO in reading_of(model).writers
        assert ZERO not in reading_of(model).measured
        assert clean_and_patched(reading_of(model), ZERO, None).labels == []
