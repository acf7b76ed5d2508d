"""The projection scan against the literal oracle and against planted models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from tests.support.models.planted import ATTENDS, assert_matches_construction, plant
from tests.support.models.random_models import random_lean
from tests.support.oracle.compare_tables import assert_tables_agree
from tests.support.oracle.measuring import measure_means, measure_tables
from tests.support.oracle.scan import measure, scan_tables

SHAPES: list[dict[str, Any]] = [
    {"n_layers": 1, "n_heads": 2, "d_model": 16},
    {"n_layers": 2, "n_heads": 4, "d_model": 32},
    {"n_layers": 3, "n_heads": 3, "d_model": 24, "d_head": 5, "act_fn": "gelu_new"},
    {"n_layers": 4, "n_heads": 2, "d_model": 40},
    {"n_layers": 2, "n_heads": 4, "d_model": 32, "attn_only": True},
    {"n_layers": 4, "n_heads": 1, "d_model": 12, "attn_only": True},
    {"n_layers": 3, "n_heads": 2, "d_model": 24, "act_fn": "solu_ln"},
]


def draw(seed: int, d_vocab: int, shape: tuple[int, int] = (6, 23)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, d_vocab, shape)


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_every_row_agrees_with_the_oracle(seed: int) -> None:
    config, weights, model = random_lean(seed, **SHAPES[seed])
    tokens = draw(seed, config.d_vocab)
    assert_tables_agree(measure_tables(model, tokens), scan_tables(config, weights, tokens))


def test_float64_agrees_too() -> None:
    config, weights, model = random_lean(11, dtype=torch.float64)
    tokens = draw(11, config.d_vocab)
    assert_tables_agree(measure_tables(model, tokens), scan_tables(config, weights, tokens))


def test_large_constant_parts_leave_the_centred_coefficients_intact() -> None:
    config, weights, _ = random_lean(12, n_layers=3)
    constant = torch.randn(config.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    constant -= constant.mean()
    for name in ("W_E", "b_out"):
        weights[name] = weights[name] + 100.0 * constant / constant.norm()
    tokens = draw(12, config.d_vocab, (8, 40))
    found = measure_tables(LeanModel(config, weights), tokens)["component_projection"]
    exact = scan_tables(config, weights, tokens)["component_projection"]
    error = np.abs(found["beta_centred"].to_numpy(float) - exact["beta_centred"].to_numpy(float))
    assert np.nanmax(error / np.maximum(1.0, exact["beta_centred"].abs().to_numpy(float))) < 1e-3


@pytest.mark.parametrize("split", [{}, {"block": 6}, {"block": 1, "batch": 1}, {"writers": 3}])
def test_means_of_terms_are_over_all_measured_tokens(split: dict[str, int]) -> None:
    config, weights, model = random_lean(16, n_layers=2, dtype=torch.float64)
    tokens = draw(16, config.d_vocab, (6, 12))
    positions = np.array([[1, 4, 9], [0, 1, 2], [3, 4, 11], [5, 6, 7], [2, 8, 10], [1, 2, 3]])
    terms = measure(config, weights, tokens, positions).terms
    expected = np.stack([terms[label].mean(axis=0) for label in config.layout.terms])
    np.testing.assert_allclose(measure_means(model, tokens, positions, **split), expected, atol=1e-12)


def test_measured_positions_are_those_that_were_asked_for() -> None:
    config, weights, model = random_lean(13)
    tokens = draw(13, config.d_vocab)
    positions = np.sort(np.random.default_rng(0).permuted(np.tile(np.arange(23), (6, 1)), axis=1)[:, :7], axis=1)
    assert_tables_agree(measure_tables(model, tokens, positions), scan_tables(config, weights, tokens, positions))


@pytest.mark.parametrize(
    "split", [{"batch": 1}, {"batch": 4}, {"block": 1}, {"block": 6}, {"writers": 1}, {"writers": 5}]
)
def test_however_the_work_is_split_the_numbers_stay(split: dict[str, int]) -> None:
    config, _, model = random_lean(14, n_layers=3)
    tokens = draw(14, config.d_vocab)
    whole, parts = measure_tables(model, tokens), measure_tables(model, tokens, **split)
    for name in ("residual_projection", "component_projection"):
        assert parts[name]["n"].equals(whole[name]["n"])
        for column in ("q12_5", "q25", "median", "q75", "q87_5"):
            a, b = (t[name][column].to_numpy() for t in (whole, parts))
            assert np.all(np.abs(a - b) <= (1 + np.abs(a)) / 120), column
        for column in ("mean", "beta", "beta_centred"):
            np.testing.assert_allclose(parts[name][column], whole[name][column], rtol=1e-5, atol=1e-5)


def test_writers_without_output_have_no_numbers() -> None:
    config, weights, _ = random_lean(15, n_layers=3)
    weights["W_O"][1, 2] = 0.0
    weights["W_pos"][:] = 0.0
    weights["W_E"][:40] = 0.0
    tokens = draw(15, config.d_vocab, (6, 30))
    tables = measure_tables(LeanModel(config, weights), tokens)
    assert_tables_agree(tables, scan_tables(config, weights, tokens))
    silent = tables["residual_projection"].query("writer in ('L1H2', 'pos_embed')")
    assert (silent["n"] == 0).all()
    assert silent[["median", "mean", "beta", "beta_centred"]].isna().all(axis=None)
    sometimes = tables["residual_projection"].query("writer == 'embed'")
    assert (sometimes["n"] == (tokens >= 40).sum()).all()


def test_the_ledger_adds_up() -> None:
    config, _, model = random_lean(16, n_layers=4)
    writers = measure_tables(model, draw(16, config.d_vocab))["writers"]
    for suffix in ("", "_centred"):
        total = sum(writers[f"{name}{suffix}"] for name in ("written", "reinforced", "opposed"))
        np.testing.assert_allclose(total, writers[f"remaining{suffix}"], atol=1e-9)


def test_coefficients_of_all_terms_sum_to_the_states() -> None:
    config, _, model = random_lean(17, n_layers=3)
    layout = config.layout
    tables = measure_tables(model, draw(17, config.d_vocab))
    components, states = tables["component_projection"], tables["residual_projection"]
    for writer in layout.writers:
        mine = components[components["writer"] == writer].set_index("component")["beta"]
        final = states[(states["writer"] == writer) & (states["state"] == layout.states[-1])]["beta"].item()
        others = sum(mine[term] for term in layout.terms if term != writer)
        assert others + 1.0 == pytest.approx(final, abs=1e-6)


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("writer", ["L0H0", "MLP0", "embed", "pos_embed"])
def test_a_planted_eraser_is_measured_as_it_was_built(attend: Any, writer: str) -> None:
    planted = plant(3, attend, 0.8, writer=writer)
    tokens = draw(3, planted.config.d_vocab, (6, 16))
    tables = measure_tables(LeanModel(planted.config, planted.weights), tokens)
    assert_matches_construction(tables, planted, tokens, sketched=True)
    row = tables["writers"].set_index("writer").loc[writer]
    assert row["erasers"] == planted.eraser


def test_nothing_planted_is_nothing_found() -> None:
    planted = plant(4, "self", 0.0)
    tokens = draw(4, planted.config.d_vocab, (6, 16))
    tables = measure_tables(LeanModel(planted.config, planted.weights), tokens)
    assert planted.eraser not in str(tables["writers"].set_index("writer").loc[planted.writer, "opposing"]).split("+")
    assert_matches_construction(tables, planted, tokens, sketched=True)
