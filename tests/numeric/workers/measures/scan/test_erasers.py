"""Broad erasers: every row against the literal oracle, and heads planted that take out of all that earlier heads write."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.scan.erasers import N_DIRECTIONS, random_signs
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.broad import TAKEN, plant_broad
from tests.support.models.random_models import random_lean
from tests.support.oracle.erasers import eraser_rows, random_betas
from tests.support.oracle.measuring import measure_tables
from tests.support.oracle.v_composition import reading_tables
from tests.support.tiers import seeds

NUMBERS = ("beta_sum", "beta_mean", "head_median", "random_mean", "random_low")
COUNTS = ("writers", "writers_taken", "heads", "heads_taken", "random_taken", "broad")


def draw(config: ModelConfig, shape: tuple[int, int] = (6, 12), seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def oracle_rows(
    config: ModelConfig, weights: dict[str, torch.Tensor], tokens: np.ndarray, kept: np.ndarray, first_position: bool
) -> pd.DataFrame:
    signs = np.stack([random_signs(0, prompt, of_prompt) for prompt, of_prompt in enumerate(kept)], axis=1)
    random = random_betas(config, weights, tokens, kept, signs, first_position=first_position)
    pairs = reading_tables(config, weights, tokens, kept, first_position=first_position)["v_composition"]
    return eraser_rows(pairs, random)


EXACT, ROUNDED = (torch.float64, 1e-8), (torch.float32, 1e-4)
CASES = list(product((EXACT, ROUNDED), (False, True), ((True, 12), (False, 11), (False, 5))))
IN_EVERY_RUN = [(EXACT, False, (False, 11)), (EXACT, True, (True, 12)), (ROUNDED, False, (False, 5))]


@pytest.mark.parametrize(
    ("precision", "attn_only", "measured"),
    [pytest.param(*case, marks=[pytest.mark.nightly] * (case not in IN_EVERY_RUN)) for case in CASES],
)
def test_every_row_agrees_with_the_oracle(
    precision: tuple[torch.dtype, float], attn_only: bool, measured: tuple[bool, int]
) -> None:
    (dtype, tolerance), (first_position, n_positions) = precision, measured
    config, weights, _ = random_lean(7, 3, 3, 24, attn_only, dtype=dtype)
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][-1, 0].T
    tokens = draw(config)
    rng = np.random.default_rng(1)
    possible = np.arange(0 if first_position else 1, 12)
    kept = np.sort([rng.choice(possible, n_positions, replace=False) for _ in tokens], axis=1)
    model = LeanModel(config, weights, dtype=dtype)
    fast = measure_tables(model, tokens, kept, writers=4, first_position=first_position)["erasers"]
    expected = oracle_rows(config, weights, tokens, kept, first_position)
    assert fast["eraser"].tolist() == list(config.layout.heads) == expected["eraser"].tolist()
    for column in NUMBERS:
        np.testing.assert_allclose(fast[column], expected[column], rtol=tolerance, atol=tolerance, err_msg=column)
    for column in COUNTS:
        assert fast[column].tolist() == expected[column].tolist(), column
    assert expected["writers_taken"].max() >= 3


def test_directions_have_the_covariance_of_the_stream() -> None:
    """Over signs; drawn from a hash, so that no two directions go together."""
    signs = np.concatenate([random_signs(5, prompt, np.arange(64)) for prompt in range(100)], axis=1)
    assert set(signs.ravel()) == {-1.0, 1.0}
    overlap = signs @ signs.T / signs.shape[1]
    assert np.abs(overlap - np.eye(N_DIRECTIONS)).max() < 5 / np.sqrt(signs.shape[1])
    assert np.abs(signs.mean(axis=1)).max() < 5 / np.sqrt(signs.shape[1])


def test_the_split_into_shards_changes_nothing() -> None:
    config, _, model = random_lean(2, 2, 2, 16, dtype=torch.float64)
    tokens = draw(config)
    whole, split = (measure_tables(model, tokens, block=block, batch=block)["erasers"] for block in (6, 2))
    pd.testing.assert_frame_equal(whole, split, rtol=1e-10)


@pytest.mark.parametrize("seed", seeds(2, 6))
def test_a_head_that_takes_out_of_all_earlier_heads_is_broad(seed: int) -> None:
    broad = plant_broad(seed, "heads")
    rows = measure_tables(LeanModel(broad.config, broad.weights), draw(broad.config, (12, 16)))["erasers"].set_index(
        "eraser"
    )
    row = rows.loc[broad.eraser]
    assert rows.index[rows["broad"]].tolist() == [broad.eraser]
    assert (row["heads"], row["heads_taken"], row["writers_taken"]) == (4, 4, 4)
    assert row["head_median"] == pytest.approx(-TAKEN, abs=1e-3)
    assert row["beta_sum"] == pytest.approx(-4 * TAKEN, abs=1e-2)
    assert row["random_mean"] > -0.1 and row["random_low"] > -TAKEN


@pytest.mark.parametrize("seed", seeds(2, 6))
def test_one_that_shrinks_all_that_it_reads_is_none(seed: int) -> None:
    broad = plant_broad(seed, "everything")
    rows = measure_tables(LeanModel(broad.config, broad.weights), draw(broad.config, (12, 16)))["erasers"].set_index(
        "eraser"
    )
    row = rows.loc[broad.eraser]
    assert (row["heads"], row["heads_taken"], row["random_taken"]) == (4, 4, 1.0)
    assert row["head_median"] == pytest.approx(-TAKEN, abs=1e-3)
    assert row["random_mean"] == pytest.approx(-TAKEN, abs=1e-3)
    assert not rows["broad"].any()


def test_where_nothing_is_planted_no_head_is() -> None:
    broad = plant_broad(0, "nothing")
    rows = measure_tables(LeanModel(broad.config, broad.weights), draw(broad.config, (12, 16)))["erasers"]
    assert not rows["broad"].any() and not rows["heads_taken"].any()
