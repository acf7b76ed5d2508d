"""Comparing tables of reading sees every number, label and rank that is off."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planted import assert_matches_construction, plant
from tests.support.models.random_models import random_lean
from tests.support.oracle import scan as oracle
from tests.support.oracle.compare_tables import assert_reading_agrees, assert_tables_agree
from tests.support.oracle.v_composition import reading_tables


def draw(config: ModelConfig, n_prompts: int = 4, length: int = 12) -> np.ndarray:
    return np.random.default_rng(21).integers(0, config.d_vocab, (n_prompts, length))


@pytest.fixture(scope="module")
def small_tables() -> dict[str, pd.DataFrame]:
    config, weights, _ = random_lean(51, n_layers=3, n_heads=2)
    return reading_tables(config, weights, draw(config, 3, 12), tau=0.005)


@pytest.mark.parametrize(
    ("table", "column", "off_by", "passes"),
    [
        ("v_composition", "patched_median", 0.0039, True),
        ("v_composition", "patched_median", 0.02, False),
        ("v_composition", "v_composed_q87_5", 0.02, False),
        ("v_composition", "clean_q12_5", math.nan, False),
        ("v_composition", "beta", 9e-6, True),
        ("v_composition", "beta", 1e-4, False),
        ("v_composition", "beta_centred", 1e-4, False),
        ("v_composition", "n", 1, False),
        ("dla_correlation", "r", 9e-4, True),
        ("dla_correlation", "r", 2e-3, False),
        ("dla_correlation", "slope", 5e-3, False),
        ("dla_correlation", "intercept", 5e-3, False),
        ("dla_correlation", "spearman", 5e-3, False),
        ("dla_correlation", "n", 1, False),
        ("writers", "erased", 1e-4, False),
        ("writers", "erased_centred", math.nan, False),
        ("writers", "dla_r", 2e-3, False),
        ("writers", "remaining", 1e-3, False),
        ("writers", "rank", 1, False),
    ],
)
def test_comparing_tables_sees_one_number_off(
    small_tables: dict[str, pd.DataFrame], table: str, column: str, off_by: float, passes: bool
) -> None:
    changed = {name: frame.copy() for name, frame in small_tables.items()}
    changed[table].loc[3, column] += off_by
    if passes:
        assert_reading_agrees(changed, small_tables, tau=0.005, spearman=True)
        return
    with pytest.raises(AssertionError, match=rf"{table}\.{column}:"):
        assert_reading_agrees(changed, small_tables, tau=0.005, spearman=True)


def test_comparing_tables_sees_labels_and_shares(small_tables: dict[str, pd.DataFrame]) -> None:
    rows = small_tables["v_composition"].copy()
    row = rows.index[(rows["writer"] == "L0H0") & (rows["eraser"] == "L1H1")][0]
    rows.loc[row, ["v_composed_median", "v_composed_q75"]] = [-0.3, -0.2]
    rows.loc[row, ["clean_median", "clean_q75"]] = [-0.3, -0.2]
    writers = small_tables["writers"].copy()
    index = writers.index[writers["writer"] == "L0H0"][0]
    writers.loc[index, ["erasers", "opposing"]] = ["L1H1", ""]
    writers.loc[index, ["v_composition_share", "opposed_by_erasers"]] = [0.5, -0.4]
    expected = small_tables | {"v_composition": rows, "writers": writers}
    assert_reading_agrees(expected, expected)
    for columns, values, message in (
        (["erasers", "opposing"], ["", "L1H1"], r"erasers of L0H0: .*\['L1H1'\] is not near the threshold"),
        (["opposing"], ["L1H1"], r"opposing of L0H0: .*\['L1H1'\] is not near the threshold"),
        (["v_composition_share"], [0.501], r"v_composition_share of L0H0"),
        (["v_composition_share"], [math.nan], r"v_composition_share of L0H0"),
    ):
        wrong = writers.copy()
        wrong.loc[index, columns] = values
        with pytest.raises(AssertionError, match=message):
            assert_reading_agrees(expected | {"writers": wrong}, expected)


def test_projection_tables_are_compared_without_erasers_among_opposing_heads() -> None:
    planted = plant(52, "self", 0.8)
    tokens = draw(planted.config)
    scan = oracle.scan_tables(planted.config, planted.weights, tokens)
    full = scan | {"writers": reading_tables(planted.config, planted.weights, tokens)["writers"]}
    assert_tables_agree(full, scan)
    assert_matches_construction(full, planted, tokens)
    dropped = full["writers"].assign(erasers=full["writers"]["erasers"].where(full["writers"]["writer"] != "L0H0", ""))
    with pytest.raises(AssertionError, match="opposing of L0H0"):
        assert_tables_agree(full | {"writers": dropped}, scan)
