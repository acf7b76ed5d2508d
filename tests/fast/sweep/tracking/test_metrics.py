"""The numbers of a model that MLflow puts beside those of others, against tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.sweep.tracking.metrics import model_metrics, size_metrics, verify_metrics
from erasure_sweep.workers.manifest import ManifestEntry
from tests.support.fakes.erasers import erasers_table

NAN = float("nan")
LEDGER = {
    "writer": ["embed", "pos_embed", "L0H0", "MLP0"],
    "written": [1.0, 1.0, 0.8, np.nan],
    "remaining": [0.4, 0.6, 0.1, np.nan],
    "reinforced": [0.1, 0.0, 0.0, np.nan],
    "opposed": [-0.7, -0.4, -0.9, np.nan],
}
READING = {
    "erased": [0.2, np.nan, 0.9, np.nan],
    "erased_centred": [0.1, np.nan, 0.6, np.nan],
    "erasers": ["L1H0", "", "L1H0+L1H1", None],
    "dla_slope": [-0.3, np.nan, -0.7, np.nan],
    "rank": [2.0, np.nan, 1.0, np.nan],
}
UNREAD = {name: [None] * 4 for name in READING}


def writers_table(**changes: list) -> pd.DataFrame:
    return pd.DataFrame({"model": "toy", **LEDGER, **UNREAD, **changes})


def test_metrics_by_hand():
    assert model_metrics({"writers": writers_table()}) == {
        "erasure/writers_measured": 3.0,
        "erasure/most_opposed": -0.9,
        "erasure/remaining_median": 0.4,
        "erasure/writers_half_erased": pytest.approx(2 / 3),
    }


def test_metrics_of_what_is_erased():
    found = model_metrics({"writers": writers_table(**READING)})
    assert {name: value for name, value in found.items() if name.startswith("reading")} == {
        "reading/most_erased": 0.9,
        "reading/most_erased_head": 0.9,
        "reading/erased_median": pytest.approx(0.55),
        "reading_centred/most_erased": 0.6,
        "reading_centred/erased_median": pytest.approx(0.35),
        "reading/median_dla_slope": pytest.approx(-0.5),
    }


def test_heads_are_told_apart_from_embeddings_and_mlps():
    reading = {**READING, "erased": [1.6, 0.3, 0.2, 0.7]}
    writers = writers_table(**reading)
    found = model_metrics({"writers": writers})
    assert (found["reading/most_erased"], found["reading/most_erased_head"]) == (1.6, 0.2)


def test_metrics_of_broad_erasers():
    tables = {"writers": writers_table(), "erasers": erasers_table(L1H0=(2, -0.2, False), L1H1=(4, -0.9, True))}
    assert model_metrics(tables)["reading/broad_erasers"] == 1.0
    assert model_metrics(tables | {"erasers": erasers_table()})["reading/broad_erasers"] == 0.0


def test_sizes_are_metrics_where_they_are_known():
    shape = {"n_layers": 2, "n_heads": 4, "d_model": 64, "n_params": 98304, "training_tokens": None, "act_fn": "gelu"}
    entry = ManifestEntry(name="a", folder="a", state="FINISHED", **shape)
    assert size_metrics(entry) == {
        "model/n_layers": 2.0, "model/n_heads": 4.0, "model/d_model": 64.0, "model/n_params": 98304.0,
    }  # fmt: skip
    assert size_metrics(ManifestEntry(name="a", folder="a", state="FINISHED", training_tokens=0)) == {
        "model/training_tokens": 0.0
    }


def pairs_table(*significant: bool | None) -> pd.DataFrame:
    return pd.DataFrame({"writer": "embed", "eraser": "L1H0", "significant": pd.Series(significant, dtype=object)})


def test_metrics_of_significant_pairs():
    found = model_metrics({"writers": writers_table(), "v_composition": pairs_table(True, False, None, True, False)})
    assert found["reading/significant_share"] == 0.5
    none = model_metrics({"writers": writers_table(), "v_composition": pairs_table(False, None)})
    assert none["reading/significant_share"] == 0.0


@pytest.mark.parametrize(
    "pairs", [pairs_table(None, None), pairs_table(), pairs_table(True).drop(columns="significant")]
)
def test_pairs_that_were_not_tested_are_left_out(pairs: pd.DataFrame):
    assert model_metrics({"writers": writers_table(), "v_composition": pairs}) == model_metrics(
        {"writers": writers_table()}
    )


def test_metrics_of_what_was_not_measured_are_left_out():
    unmeasured = writers_table(remaining=[None] * 4, opposed=[np.nan] * 4)
    assert model_metrics({"writers": unmeasured}) == {"erasure/writers_measured": 0.0}
    assert model_metrics({}) == {}


def test_nothing_written_is_not_erased():
    negative = writers_table(written=[-1.0, 0.0, 0.0, 0.0], remaining=[-2.0, -1.0, -0.5, -0.1], opposed=[-1.0] * 4)
    assert model_metrics({"writers": negative})["erasure/writers_half_erased"] == 0.0


def verify_tables() -> dict[str, pd.DataFrame]:
    """Two groups of one writer, of which one is erased, and one of another."""
    groups = pd.DataFrame(
        {
            "writer": ["L0H2", "L0H2", "MLP1"],
            "group": ["L2H3", "L1H0", "later"],
            "eraser": ["L2H3", "L1H0", "later"],
            "beta": [-0.5, -0.2, 0.2],
            "verdict": ["erased", "not found", "not found"],
        }
    )
    states = pd.DataFrame(
        {
            "writer": ["L0H2", "L0H2"],
            "eraser": ["L2H3", "L1H0"],
            "patch": "group",
            "state": ["resid_mid2", "resid_mid1"],
            "clean_median": [0.1, 0.5],
            "patched_median": [0.9, 0.7],
        }
    )
    return {
        "eraser_group": groups,
        "patched_residual_projection": states,
        "ablation_loss": pd.DataFrame({"writer": ["L0H2", "MLP1"], "increase_mean": [0.4, NAN]}),
        "adversarial": pd.DataFrame(
            {
                **{"writer": "L0H2", "source": "found", "half": ["shown", "shown", "found"], "role": "writer"},
                **{"inputs": "last", "fools": [True, False, True]},
            }
        ),
        "patched_loss": pd.DataFrame(
            {
                "writer": "L0H2",
                "patch": ["group", "group", "layer"],
                "increase_mean": [0.2, 0.3, 0.4],
                "increase_mean_low": [0.1, -0.1, 0.3],
            }
        ),
        "dla_trust": trust_table("holds", "cancelled", None, "holds", "partly cancelled"),
    }


def trust_table(*words: str | None) -> pd.DataFrame:
    settled = [word != "cancelled" if word else None for word in words]
    return pd.DataFrame({"writer": [f"L0H{index}" for index in range(len(words))], "trust": words, "settled": settled})


def test_metrics_of_verify():
    assert verify_metrics(verify_tables()) == {
        "verify/erased_writers": 1.0,
        "verify/group_beta_most": -0.5,
        "verify/presence_restored": pytest.approx(0.8),
        "verify/loss_increase_most": 0.4,
        "verify/erasing_worth_most": 0.2,
        "verify/fooled_share": 0.5,
        "trust/holds": 2.0,
        "trust/partly_cancelled": 1.0,
        "trust/cancelled": 1.0,
        **dict.fromkeys(("trust/amplified", "trust/reversed", "trust/unrelated", "trust/constant"), 0.0),
        "trust/unsettled": 1.0,
        "trust/holds_share": 0.5,
    }


def test_metrics_of_verify_where_little_was_measured():
    untold = verify_metrics({"dla_trust": trust_table(None, None)})
    assert untold["trust/holds"] == 0.0 and "trust/holds_share" not in untold
    assert verify_metrics({}) == {} == verify_metrics({"writers": pd.DataFrame()})
    assert set(verify_metrics({"dla_trust": trust_table("holds", "cancelled")})) == {
        *("trust/holds", "trust/amplified", "trust/partly_cancelled", "trust/cancelled", "trust/reversed"),
        *("trust/unrelated", "trust/constant", "trust/unsettled", "trust/holds_share"),
    }
