"""Facts on what was verified, against tables made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from erasure_sweep.workers.tables.facts.verified import verdict_of, verdicts, verified_groups, was_verified

NAN = float("nan")


def group_rows(writer: str, chosen: str, rows: dict[str, tuple[float, str | None]]) -> list[dict[str, object]]:
    """Rows of ``eraser_group``; of each eraser its β and, of the group, the verdict."""
    group = list(rows)[-1]
    return [
        {
            "writer": writer, "group": group, "eraser": eraser, "chosen": chosen,
            "held_out": True, "beta": beta, "beta_low": beta - 0.1,
            "beta_high": beta + 0.1, "verdict": verdict,
        }
        for eraser, (beta, verdict) in rows.items()
    ]  # fmt: skip


def state_rows(writer: str, eraser: str, presence: dict[str, tuple[float, float]]) -> list[dict[str, object]]:
    """Rows of ``patched_residual_projection`` for both patches, that of whole layers shifted by one."""
    return [
        {
            "writer": writer, "eraser": eraser, "patch": patch, "state": state, "clean_median": clean,
            "patched_median": patched + shift,
        }
        for patch, shift in (("group", 0.0), ("layer", 1.0))
        for state, (clean, patched) in presence.items()
    ]  # fmt: skip


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    groups = [
        *group_rows("L0H2", "named", {"L1H0": (-0.2, None), "L2H3": (-0.3, None), "L1H0+L2H3": (-0.5, "erased")}),
        *group_rows("L0H2", "rule", {"L1H0": (-0.2, "not found")}),
        *group_rows("MLP1", "all", {"L2H0": (0.1, None), "L2H3": (0.1, None), "later": (0.2, "not found")}),
    ]
    states = [
        *state_rows("L0H2", "L1H0+L2H3", {"resid_mid1": (0.5, 0.6), "resid_post1": (9, 9), "resid_mid2": (0.1, 0.9)}),
        *state_rows("L0H2", "L1H0", {"resid_mid1": (0.5, 0.7), "resid_mid2": (9, 9)}),
        *state_rows("MLP1", "later", {"resid_mid1": (9, 9), "resid_mid2": (1.2, 1.0)}),
    ]
    lines = [("L0H2", "L1H0+L2H3", "v_composition", "scan", -0.1), ("L0H2", "L1H0+L2H3", "full", "verify", -0.2)]
    lines += [("L0H2", "L1H0+L2H3", "v_composition", "verify", -0.7), ("MLP1", "later", "v_composition", "verify", NAN)]
    return {
        "eraser_group": pd.DataFrame(groups),
        "patched_residual_projection": pd.DataFrame(states),
        "dla_correlation": pd.DataFrame(lines, columns=["writer", "eraser", "effect", "stage", "slope"]),
    }


def test_a_group_is_its_own_row_with_what_other_tables_say(tables: dict[str, pd.DataFrame]) -> None:
    named, rule, everything = verdicts(tables)
    assert named.group == ("L0H2", "L1H0+L2H3", ("L2H3", "L1H0"))
    assert (named.chosen, named.held_out, named.word) == ("named", True, "erased")
    assert (named.beta, named.presence, named.dla_slope) == ((-0.5, -0.6, -0.4), (0.1, 0.9), -0.7)
    assert (rule.group.label, rule.beta.value, rule.presence, rule.word) == ("L1H0", -0.2, (0.5, 0.7), "not found")
    assert math.isnan(rule.dla_slope)
    assert (everything.group, everything.beta.value) == (("MLP1", "later", ("later",)), 0.2)
    assert everything.presence == (1.2, 1.0)


def test_models_without_mlps_have_other_states(tables: dict[str, pd.DataFrame]) -> None:
    states = tables["patched_residual_projection"]
    states["state"] = states["state"].str.replace("post", "pre").str.replace("mid", "post")
    assert [verdict.presence for verdict in verdicts(tables)] == [(0.1, 0.9), (0.5, 0.7), (1.2, 1.0)]


def test_an_interval_of_one_block_is_not_there(tables: dict[str, pd.DataFrame]) -> None:
    tables["eraser_group"] = tables["eraser_group"].assign(verdict=None, beta_low=NAN, beta_high=NAN)
    assert all(verdict.word is None and math.isnan(verdict.beta.low) for verdict in verdicts(tables))


def test_writers_stand_by_rank(tables: dict[str, pd.DataFrame]) -> None:
    tables["writers"] = pd.DataFrame({"writer": ["L0H2", "MLP1"], "rank": [2.0, 1.0]})
    assert [(group.writer, group.label) for group in verified_groups(tables)] == [
        *(("MLP1", "later"), ("L0H2", "L1H0+L2H3"), ("L0H2", "L1H0"))
    ]


def test_nulls_stand_beside_the_group(tables: dict[str, pd.DataFrame]) -> None:
    nulls = [
        *(("placebo", str(draw), "v_composed", beta) for draw, beta in enumerate((-0.1, 0.3, 0.1), start=1)),
        ("siblings", "L0H0", "v_composed", -0.2),
        *(
            ("siblings", "L0H1", "v_composed", -0.3),
            ("siblings", "L0H1", "clean", -0.9),
            ("shuffled", "", "clean", -0.8),
        ),
    ]
    rows = pd.DataFrame(nulls, columns=["null", "direction", "of", "beta"])
    tables["nulls"] = rows.assign(
        writer="L0H2", eraser="L1H0", beta_low=rows["beta"] - 0.1, beta_high=rows["beta"] + 0.1
    )
    named, rule, _ = verdicts(tables)
    assert rule.placebos == (-0.1, 0.1) and rule.siblings == (-0.3, -0.25)
    assert all(math.isnan(value) for value in (*named.placebos, *named.siblings))


def test_a_group_that_other_tables_name_has_no_verdict() -> None:
    tables = {"later_use": pd.DataFrame({"writer": ["L0H2"], "eraser": ["L1H0"]})}
    (group,) = verified_groups(tables)
    assert verdict_of(tables, group) is None and verdicts(tables) == []
    assert was_verified(tables)


def test_what_was_not_verified() -> None:
    lines = pd.DataFrame({"writer": ["L0H2"], "eraser": ["L1H0"], "stage": ["scan"]})
    assert not was_verified({"dla_correlation": lines}) and verified_groups({"dla_correlation": lines}) == []
    assert not was_verified({}) and verdicts({}) == []
