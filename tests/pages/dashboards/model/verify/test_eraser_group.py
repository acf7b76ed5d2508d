"""A writer's erasers, one by one and together, beside nulls."""

from __future__ import annotations

import itertools

import numpy as np

from erasure_sweep.dashboards.model.verify.eraser_group import eraser_group, group_nulls, plot_group
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import GROUP, NAMED, group_of, only, tables_of


class TestGroup:
    def test_heads_then_the_group(self, model: ModelTables) -> None:
        shown = eraser_group(model, GROUP)
        assert shown is not None
        assert shown.labels == [*NAMED, GROUP.label]
        table = model.tables["eraser_group"]
        row = only(table, writer="L0H1", eraser=GROUP.label)
        assert shown.clean.median[-1] == row["clean_median"]
        assert shown.patched.q75[-1] == row["patched_q75"]
        assert shown.read.median.tolist() == [row["v_composed_median"]]
        assert "β of the nulls of the part read, pooled: placebos" in shown.sentence

    def test_nulls_in_order_what_was_measured_left_out(self, model: ModelTables) -> None:
        nulls = group_nulls(model, GROUP)
        kinds = [null.kind for null in nulls]
        assert kinds == [*["placebo"] * 6, *["siblings"] * 4, "shuffled", "shuffled", "position", "position"]
        assert {null.direction for null in nulls if null.kind == "placebo"} == {"1", "2", "3"}
        assert {null.direction for null in nulls if null.kind == "siblings"} == {"L0H0", "L0H2"}
        row = only(model.tables["nulls"], writer="L0H1", eraser=GROUP.label, null="shuffled", of="clean")
        assert (nulls[10].of, nulls[10].median, nulls[10].beta) == ("clean", row["median"], row["beta"])

    def test_figure_marks_chance_hollow_and_position_by_a_star(self, model: ModelTables) -> None:
        shown = eraser_group(model, GROUP)
        assert shown is not None
        figure = plot_group(shown)
        symbols = {trace.name: trace.marker.symbol for trace in figure.data}
        assert symbols == {
            "as it is": "circle",
            "without reading the writer": "diamond",
            "the part read from the writer": "triangle-up",
            "null of the group as it is": "circle-open",
            "null of the part read": "triangle-up-open",
            "at equal position (no null)": "star",
        }
        ticks = [*NAMED, "<b>L1H0+<br>L2H1</b>", "placebos", "siblings", "shuffled"]
        assert list(figure.layout.xaxis.ticktext) == [*ticks, "position<br>alone"]
        (star,) = (trace for trace in figure.data if trace.marker.symbol == "star")
        assert round(float(star.x[0])) == 6
        hollow = next(trace for trace in figure.data if trace.marker.symbol == "circle-open")
        assert [round(float(x)) for x in hollow.x] == [3, 3, 3, 4, 4, 5]
        assert all(x != y for x, y in itertools.combinations(np.asarray(hollow.x).tolist(), 2))

    def test_of_many_heads_those_that_change_most(self) -> None:
        moved = {"L1H0": 0.1, "L1H1": -0.5, "L2H0": 0.3, "later": -0.1}
        rows = [
            {
                "writer": "embed",
                "group": "later",
                "eraser": label,
                "chosen": "all",
                "clean_median": value,
                "patched_median": 0.0,
            }
            for label, value in moved.items()
        ]
        shown = eraser_group(tables_of(eraser_group=rows), group_of("embed", "later"), most=2)
        assert shown is not None
        assert (shown.labels, shown.left_out) == (["L1H1", "L2H0", "later"], 1)
        figure = plot_group(shown)
        assert figure.layout.meta["sentence"].endswith("the 2 heads that change most; 1 others are left out.")
        assert list(figure.layout.xaxis.ticktext) == ["L1H1", "L2H0", "<b>all later</b>"]

    def test_a_group_of_many_heads_has_a_short_name(self) -> None:
        label = "L1H0+L1H1+L2H0+L2H1"
        row = {"writer": "embed", "group": label, "eraser": label, "clean_median": -0.4, "patched_median": 0.0}
        shown = eraser_group(tables_of(eraser_group=[row]), group_of("embed", row["eraser"]))
        assert shown is not None
        assert list(plot_group(shown).layout.xaxis.ticktext) == ["<b>all 4<br>together</b>"]

    def test_a_single_head_is_its_own_group(self) -> None:
        row = {"writer": "embed", "group": "L1H0", "eraser": "L1H0", "clean_median": -0.4, "patched_median": 0.0}
        shown = eraser_group(tables_of(eraser_group=[row, row]), group_of("embed", "L1H0"))
        assert shown is not None
        assert shown.labels == ["L1H0"]
