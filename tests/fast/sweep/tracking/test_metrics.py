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
HEADS = [f"L0H{head}" for head in range(9)]


def writers_table(**changes: list) -> pd.DataFrame:
    return pd.DataFrame({"model": "toy", **LEDGER, **changes})


def heads_table(**changes: object) -> pd.DataFrame:
    """Nine heads, the first of which is erased whole, an embedding, and a head of the last layer."""
    columns = {
        **{"writer": ["embed", *HEADS, "L1H0"], "erased": [1.5, *[0.75] * 9, NAN]},
        **{"erased_centred": [1.25, 1.0, *[0.25] * 4, *[0.125] * 4, NAN], "diluted": [0.9, 0.5, *[0.0] * 8, NAN]},
    }
    return pd.DataFrame({**columns, **changes})


def test_metrics_of_a_ledger_by_hand():
    assert model_metrics({"writers": writers_table()}) == {"ledger/half_gone": pytest.approx(2 / 3)}


def test_metrics_of_what_is_erased_are_with_means_removed():
    assert model_metrics({"writers": heads_table()}) == {
        "erased/heads_median": 0.25,
        "erased/heads_most": 1.0,
        # of nine ways to leave one out, one leaves the largest out
        "erased/heads_most_of_8": pytest.approx((8 * 1.0 + 0.25) / 9),
        "erased/heads_diluted": 0.0,
        "erased/heads_median_plain": 0.75,
        "erased/most": 1.25,
    }


def test_metrics_without_means_removed_and_of_few_heads():
    found = model_metrics({"writers": heads_table(erased_centred=NAN, diluted=NAN)})
    assert (found["erased/heads_median"], found["erased/most"]) == (0.75, 1.5)
    assert "erased/heads_diluted" not in found
    few = model_metrics({"writers": heads_table().iloc[:8]})
    assert few["erased/heads_most"] == 1.0 and "erased/heads_most_of_8" not in few


def test_the_largest_of_eight_does_not_grow_with_the_number_of_heads_alone():
    def metrics(n: int, seed: int) -> dict[str, float]:
        shares = np.random.default_rng([n, seed]).gumbel(0.1, 0.12, size=n)
        return model_metrics({"writers": pd.DataFrame({"writer": [f"L0H{at}" for at in range(n)], "erased": shares})})

    few, many = ([metrics(n, seed) for seed in range(200)] for n in (8, 64))

    def mean(found: list[dict[str, float]], name: str) -> float:
        return float(np.mean([one[name] for one in found]))

    assert mean(many, "erased/heads_most") > mean(few, "erased/heads_most") + 0.15
    assert mean(many, "erased/heads_most_of_8") == pytest.approx(mean(few, "erased/heads_most_of_8"), abs=0.03)


def test_metrics_of_broad_erasers():
    tables = {"writers": writers_table(), "erasers": erasers_table(L1H0=(2, -0.2, False), L1H1=(4, -0.9, True))}
    assert model_metrics(tables)["erased/broad_erasers"] == 1.0
    assert model_metrics(tables | {"erasers": erasers_table()})["erased/broad_erasers"] == 0.0


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
    assert found["erased/significant_share"] == 0.5
    none = model_metrics({"writers": writers_table(), "v_composition": pairs_table(False, None)})
    assert none["erased/significant_share"] == 0.0


@pytest.mark.parametrize(
    "pairs", [pairs_table(None, None), pairs_table(), pairs_table(True).drop(columns="significant")]
)
def test_pairs_that_were_not_tested_are_left_out(pairs: pd.DataFrame):
    assert model_metrics({"writers": writers_table(), "v_composition": pairs}) == model_metrics(
        {"writers": writers_table()}
    )


def test_metrics_of_what_was_not_measured_are_left_out():
    unmeasured = writers_table(remaining=[None] * 4, opposed=[np.nan] * 4)
    assert model_metrics({"writers": unmeasured}) == {}
    assert model_metrics({}) == {}


def test_half_gone_is_with_means_removed():
    centred = writers_table(written_centred=[1.0, 1.0, 0.8, NAN], remaining_centred=[1.0, 0.9, 0.1, NAN])
    assert model_metrics({"writers": centred})["ledger/half_gone"] == pytest.approx(1 / 3)


def test_what_wrote_nothing_has_no_half_to_lose():
    negative = writers_table(written=[-1.0, 0.0, 1.0, 0.0], remaining=[-2.0, -1.0, 0.9, -0.1], opposed=[-1.0] * 4)
    assert model_metrics({"writers": negative})["ledger/half_gone"] == 0.0
    none = writers_table(written=[-1.0, 0.0, 0.0, 0.0], remaining=[-2.0, -1.0, -0.5, -0.1], opposed=[-1.0] * 4)
    assert model_metrics({"writers": none}) == {}


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
    return {
        "eraser_group": groups,
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
        "dla_trust": trust_table("holds", "cancelled", None, "holds", "partly cancelled", unsettled=1),
    }


def trust_table(*words: str | None, unsettled: int = 0) -> pd.DataFrame:
    """Components with these words, the first few of which are not settled."""
    settled = pd.Series([at >= unsettled for at in range(len(words))], dtype=object)
    return pd.DataFrame({"writer": [f"L0H{at}" for at in range(len(words))], "trust": words, "settled": settled})


def test_metrics_of_verify():
    found = verify_metrics(verify_tables())
    assert {name: value for name, value in found.items() if value} == {
        "verify/erased": 1.0,
        "verify/not_found": 2.0,
        "verify/erasing_worth_most": 0.2,
        "verify/fooled_share": 0.5,
        "trust/settled_share": 0.75,
        "trust/holds_share": pytest.approx(1 / 3),
        "trust/cancelled_share": pytest.approx(1 / 3),
        "trust/partly_cancelled_share": pytest.approx(1 / 3),
    }
    words = {f"trust/{word}_share" for word in ("amplified", "reversed", "unrelated", "constant")}
    none = {"verify/erased_with_its_siblings", "verify/shrinks_everything"}
    assert words | none == {name for name, value in found.items() if not value}


def test_metrics_of_verify_where_little_was_measured():
    assert verify_metrics({"dla_trust": trust_table(None, None)}) == {}
    assert verify_metrics({}) == {} == verify_metrics({"writers": pd.DataFrame()})
    assert verify_metrics({"dla_trust": trust_table("holds", "cancelled", unsettled=2)}) == {"trust/settled_share": 0.0}
