"""What the final table and MLflow say of verify, against tables made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from erasure_sweep.sweep.tracking.verified import trust_counts, verified_targets
from erasure_sweep.sweep.tracking.verify_metrics import verify_metrics

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
        "ablation_loss": pd.DataFrame({"writer": ["L0H2", "MLP1"], "increase_mean": [0.4, NAN]}),
        "dla_trust": pd.DataFrame({"trust": ["trust", "cancelled", None, "trust", "partly cancelled"]}),
    }


def test_a_target_is_its_groups_row_with_what_other_tables_say(tables: dict[str, pd.DataFrame]) -> None:
    named, rule, everything = verified_targets(tables)
    assert named == ("L0H2", "L1H0+L2H3", True, -0.5, -0.6, -0.4, -0.7, 0.1, 0.9, "erased")
    assert (rule.erasers, rule.beta, rule.clean, rule.patched, rule.verdict) == ("L1H0", -0.2, 0.5, 0.7, "not found")
    assert math.isnan(rule.slope)
    assert (everything.writer, everything.erasers, everything.beta) == ("MLP1", "later", 0.2)
    assert (everything.clean, everything.patched) == (1.2, 1.0)


def test_models_without_mlps_have_other_states(tables: dict[str, pd.DataFrame]) -> None:
    states = tables["patched_residual_projection"]
    states["state"] = states["state"].str.replace("post", "pre").str.replace("mid", "post")
    assert [(t.clean, t.patched) for t in verified_targets(tables)] == [(0.1, 0.9), (0.5, 0.7), (1.2, 1.0)]


def test_an_interval_of_one_block_is_not_there(tables: dict[str, pd.DataFrame]) -> None:
    tables["eraser_group"] = tables["eraser_group"].assign(verdict=None, beta_low=NAN, beta_high=NAN)
    assert all(target.verdict is None and math.isnan(target.low) for target in verified_targets(tables))


def test_trust_is_counted_by_word(tables: dict[str, pd.DataFrame]) -> None:
    assert trust_counts(tables) == {"trust": 2, "partly cancelled": 1, "cancelled": 1, "reversed": 0}
    assert trust_counts({}) == {}


def test_few_numbers_are_logged(tables: dict[str, pd.DataFrame]) -> None:
    assert verify_metrics(tables) == {
        "verify/erased_writers": 1.0,
        "verify/group_beta_most": -0.5,
        "verify/presence_restored": pytest.approx(0.8),
        "verify/loss_increase_most": 0.4,
        "trust/trusted": 2.0,
        "trust/partly_cancelled": 1.0,
        "trust/cancelled": 1.0,
        "trust/reversed": 0.0,
        "trust/trusted_share": 0.5,
    }
    untold = verify_metrics({"dla_trust": pd.DataFrame({"trust": [None, None]})})
    assert untold["trust/trusted"] == 0.0 and "trust/trusted_share" not in untold
    assert verify_metrics({}) == {} == verify_metrics({"writers": pd.DataFrame()})
    assert set(verify_metrics({"dla_trust": tables["dla_trust"]})) == {
        "trust/trusted", "trust/partly_cancelled", "trust/cancelled", "trust/reversed", "trust/trusted_share",
    }  # fmt: skip
