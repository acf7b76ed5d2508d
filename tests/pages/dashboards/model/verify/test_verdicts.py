"""Which writers were verified with which erasers, and the verdicts in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from erasure_sweep.dashboards.grids import dla_of
from erasure_sweep.dashboards.model.verified import first_head, pair_name, verdict_line
from erasure_sweep.dashboards.model.verify.verdicts import verdict_list
from erasure_sweep.workers.tables.facts.verified import verdict_of, verified_groups, was_verified
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, model_tables
from tests.support.fakes.verified_models import GROUP, group_of, tables_of


class TestTargets:
    def test_are_by_rank_with_all_groups_of_a_writer(self, model: ModelTables) -> None:
        targets = verified_groups(model.tables)
        pairs = model.tables["nulls"][["writer", "eraser"]].itertuples(index=False, name=None)
        assert {target[:2] for target in targets} == set(pairs)
        assert (GROUP.writer, GROUP.label) in [target[:2] for target in targets]
        ranks = model.tables["writers"].set_index("writer")["rank"]
        found = [ranks[target.writer] for target in targets]
        assert found == sorted(found)

    def test_are_found_without_the_other_tables(self, model: ModelTables) -> None:
        groups = {"eraser_group": model.tables["eraser_group"]}
        assert set(verified_groups(groups)) == set(verified_groups(model.tables))

    def test_a_scan_has_none(self) -> None:
        scan = fake_model("scan", 2, 2, n_tokens=24, reading=True)
        assert not was_verified(scan.tables)
        assert verified_groups(scan.tables) == []
        assert verdict_list(scan) == ""

    def test_rows_of_verify_do_not_enter_the_scans_correlations(self, model: ModelTables) -> None:
        table = model.tables["dla_correlation"]
        assert set(table["stage"]) == {"scan", "verify"}
        grid = dla_of(model, "full")
        # the named group is in the scan too, those of the rule are not
        of_rule = {target.label for target in verified_groups(model.tables)} - {GROUP.label}
        assert of_rule
        assert not {label for label in of_rule if "+" in label} & set(grid.columns)
        older = {"dla_correlation": table[table["stage"] == "scan"].drop(columns="stage")}
        np.testing.assert_array_equal(dla_of(model_tables({}, older), "full").values["r"], grid.values["r"])


VERDICT = {
    **{"writer": "L0H2", "group": "L2H2+L2H3", "eraser": "L2H2+L2H3", "chosen": "rule", "held_out": True},
    **{"beta": -0.614, "beta_low": -0.65, "beta_high": -0.573, "position_share": 0.8, "verdict": "erased"},
}
"""A group's row of ``eraser_group``."""


class TestVerdicts:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                {},
                "L0H2 is erased by L2H2+L2H3: held-out pooled β −0.61 [−0.65, −0.57]; position alone explains "
                "80\u00a0% of this erasure.",
            ),
            (
                {"held_out": False, "position_share": None},
                "L0H2 is erased by L2H2+L2H3: pooled β, on the scan's own prompts, −0.61 [−0.65, −0.57].",
            ),
            (
                {"verdict": "erased, with its siblings", "position_share": None},
                "L0H2 is erased together with its siblings by L2H2+L2H3: held-out pooled β −0.61 [−0.65, −0.57].",
            ),
            (
                {"verdict": "shrinks everything"},
                "L0H2: L2H2+L2H3 shrinks everything, not this writer alone: held-out pooled β −0.61 [−0.65, −0.57].",
            ),
            ({"verdict": "not found"}, "L0H2: erasure by L2H2+L2H3 not found: held-out pooled β −0.61 [−0.65, −0.57]."),
            (
                {"verdict": None, "beta_low": None, "beta_high": None},
                "L0H2: no verdict on L2H2+L2H3, for fewer than two prompts give no interval: held-out pooled β −0.61; "
                "position alone explains 80\u00a0% of this erasure.",
            ),
            (
                {"verdict": "not found", "chosen": "all", "eraser": "later", "group": "later"},
                "L0H2: erasure not found, no head takes anything out; all later heads together: held-out pooled β −0.61 "
                "[−0.65, −0.57].",
            ),
            ({"beta": None}, "L0H2: nothing was measured of L2H2+L2H3, for its output is zero or was not read."),
        ],
    )
    def test_in_words(self, change: dict[str, Any], said: str) -> None:
        row = VERDICT | change
        found = verdict_of(tables_of(eraser_group=[row]).tables, group_of("L0H2", row["eraser"]))
        assert found is not None
        assert verdict_line(found) == said

    def test_of_a_group_of_one_head_the_row_of_the_group_counts(self) -> None:
        head = {**VERDICT, "eraser": "L2H2", "verdict": None, "position_share": None}
        rows = [{**head, "group": "L2H2", "chosen": "named"}, head, {**VERDICT, "eraser": "L2H2+L2H3"}]
        null = {"writer": "L0H2", "null": "measured"}
        model = tables_of(eraser_group=rows, nulls=[{**null, "eraser": "L2H2"}, {**null, "eraser": "L2H2+L2H3"}])
        assert verified_groups(model.tables) == [group_of("L0H2", "L2H2"), group_of("L0H2", "L2H2+L2H3")]
        found = verdict_of(model.tables, group_of("L0H2", "L2H2"))
        assert found is not None
        assert found.chosen == "named"

    @pytest.mark.parametrize(
        ("placebos", "siblings", "said"),
        [
            (
                [0.01, -0.04, -0.02],
                [-0.3070, 0.5],
                "; of its placebos the one taken out most has −0.04, the median −0.02; its siblings reach −0.31",
            ),
            (
                [-0.5],
                [0.1],
                "; of its placebos the one taken out most has −0.50, the median −0.50; no sibling is taken out",
            ),
            ([None], [], ""),
        ],
    )
    def test_nulls_beside_it_are_told(self, placebos: list[float | None], siblings: list[float], said: str) -> None:
        null = {"writer": "L0H2", "eraser": VERDICT["eraser"], "of": "v_composed"}
        rows = [{**null, "null": "placebo", "beta": beta} for beta in placebos]
        rows.append({**null, "null": "placebo", "of": "clean", "beta": -9.0})
        rows += [{**null, "null": "siblings", "beta": beta} for beta in siblings]
        found = verdict_of(tables_of(eraser_group=[VERDICT], nulls=rows).tables, group_of("L0H2", "L2H2+L2H3"))
        assert found is not None
        assert verdict_line(found) == (
            f"L0H2 is erased by L2H2+L2H3: held-out pooled β −0.61 [−0.65, −0.57]{said}; position alone explains "
            "80\u00a0% of this erasure."
        )

    def test_heads_are_named_strongest_first(self) -> None:
        rows = [VERDICT | {"eraser": head, "beta": beta} for head, beta in (("L2H2", -0.1), ("L2H3", -0.5))]
        model = tables_of(eraser_group=[*rows, VERDICT])
        (target,) = verified_groups(model.tables)
        assert (target.label, pair_name(target)) == ("L2H2+L2H3", "L0H2 ← L2H3+L2H2")
        assert "is erased by L2H3+L2H2:" in verdict_list(model)

    def test_a_head_is_shown_before_embeddings(self) -> None:
        assert first_head(["pos_embed", "MLP0", "L1H1", "L0H0"]) == 2
        assert first_head(["pos_embed", "embed"]) == first_head([]) == 0

    def test_the_opening_lists_them_and_says_on_what(self, model: ModelTables, block: ModelTables) -> None:
        said = verdict_list(model)
        assert said.startswith("<p>Verified on prompts that the scan did not see")
        assert said.count("<li>") == len(verified_groups(model.tables))
        assert "no verdict on" in verdict_list(block)
