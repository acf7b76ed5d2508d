"""Where a writer is erased, which MLPs erase it, what comes after, and the tables of what it carries."""

from __future__ import annotations

import numpy as np

from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model.verify.ablation_loss import loss_table
from erasure_sweep.dashboards.model.verify.aligned_tokens import aligned_table
from erasure_sweep.dashboards.model.verify.carries import carries_table
from erasure_sweep.dashboards.model.verify.later_use import later_use, plot_later_use
from erasure_sweep.dashboards.model.verify.mlp_erasure import mlp_erasers, plot_mlps
from erasure_sweep.dashboards.model.verify.position_profile import plot_profile, position_profile
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.dashboards.wording import eraser_name
from erasure_sweep.workers.tables.facts.verified import verified_groups
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import GROUP, group_of, only, tables_of


class TestRest:
    def test_profile_is_in_bins(self, model: ModelTables) -> None:
        shown = position_profile(model, GROUP)
        assert shown is not None
        assert shown.bins == ["0", "1", "2–3", "4–7", "8–11"]
        row = only(model.tables["position_profile"], writer="L0H1", eraser=GROUP.label, first_position=4)
        assert (shown.patched.median[3], shown.norm[3]) == (row["patched_median"], row["writer_norm"])
        *lines, bars = plot_profile(shown).data
        assert {trace.yaxis for trace in lines} == {"y2"}
        np.testing.assert_allclose(bars.y, shown.norm, rtol=1e-6)

    def test_bins_in_which_nothing_was_measured_are_left_out(self, model: ModelTables) -> None:
        table = model.tables["position_profile"].copy()
        table.loc[table["first_position"] == 0, [c for c in table if c.startswith(("clean_", "patched_"))]] = np.nan
        shown = position_profile(model._replace(tables={**model.tables, "position_profile": table}), GROUP)
        assert shown is not None
        assert shown.bins == ["1", "2–3", "4–7", "8–11"]
        assert len(shown.norm) == 4

    def test_mlps_behind_the_writer(self, model: ModelTables) -> None:
        shown = mlp_erasers(model, "L0H1")
        assert shown is not None
        runs = shown.runs
        assert runs.labels == list(shown.words) == ["MLP0", "MLP1", "MLP2"]
        row = only(model.tables["mlp_erasure"], writer="L0H1", component="MLP1")
        assert (runs.runs["read"].q25[1], runs.beta[1]) == (row["read_q25"], row["beta"])
        assert [trace.name for trace in plot_mlps(shown).data][2] == "the part read from the writer"

        def said(*words: str | None) -> str:
            return str(
                plot_mlps(shown._replace(words=dict(zip(runs.labels, words, strict=True)))).layout.meta["sentence"]
            )

        nothing = "No MLP takes L0H1 out beyond what it does to its placebos."
        assert said("not found", "not found", None) == nothing
        assert said("not found", "shrinks everything", None).startswith(f"{nothing} What they shrink they shrink alike")
        assert "placebos, pooled β: MLP1" in said("not found", "erased", "shrinks everything")
        assert said(None, None, None).startswith("Without intervals and placebos")

    def test_later_use_is_in_stream_order_and_bounded(self, model: ModelTables) -> None:
        shown = later_use(model, GROUP)
        assert shown is not None
        assert shown.labels == ["MLP2"]
        row = only(model.tables["later_use"], writer="L0H1", eraser=GROUP.label, component="MLP2")
        assert (shown.beta[0], shown.low[0]) == (row["response"], row["response_low"])
        chance = shown._replace(beta=np.array([0.3]), low=np.array([-0.1]), high=np.array([0.7]))
        assert plot_later_use(chance).layout.meta["sentence"].startswith("No component behind the erasers makes up")
        keys = {"writer": "embed", "eraser": "L0H0"}
        rows = [
            {**keys, "component": f"MLP{i}", "clean_median": 0.0, "patched_median": 0.0, "response": i % 7}
            for i in reversed(range(50))
        ]
        many = later_use(tables_of(later_use=rows), group_of("embed", "L0H0"))
        assert many is not None
        assert (len(many.labels), many.left_out) == (40, 10)
        assert [int(label[3:]) for label in many.labels] == sorted(int(label[3:]) for label in many.labels)
        assert "the 40 with the largest answer; 10 others" in plot_later_use(many).layout.meta["sentence"]

    def test_tables(self, model: ModelTables) -> None:
        (named,) = (group for group in verified_groups(model.tables) if group[:2] == GROUP[:2])
        carried = [row for row in carries_table(ModelView(model)).rows if row[0] == pair_name(named)]
        assert [row[1] for row in carried] == [
            "its whole output",
            "read from the first token",
            "read from all other tokens",
        ]
        whole = only(model.tables["carries"], writer="L0H1", eraser=GROUP.label, part="all")
        assert carried[0][2:] == [
            *(whole[name] for name in ("power_share", "variance", "position_share", "token_share", "erased_by_group")),
            96,
        ]
        writers = set(model.tables["nulls"]["writer"])
        assert {row[0] for row in loss_table(ModelView(model)).rows} == writers
        aligned = aligned_table(ModelView(model)).rows
        assert len(aligned) == 30 * len(writers)
        assert not any("<b>" in row[2] for row in aligned)

    def test_many_heads_have_short_names(self) -> None:
        seven = [f"L2H{i}" for i in range(7)]
        assert pair_name(group_of("L0H2", "+".join(seven[:6]))) == "L0H2 ← L2H0+L2H1+L2H2+L2H3+L2H4+L2H5"
        assert pair_name(group_of("L0H2", "+".join(seven))) == "L0H2 ← L2H0+…+L2H6 (7 heads)"
        assert eraser_name("later") == "all later"
