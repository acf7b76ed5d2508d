"""V-composition and DLA of the scan against the literal oracle, against plants and against decoys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.decoys import DECOYS, plant_decoy, plant_shared_constant
from tests.support.models.planted import (
    assert_matches_construction,
    assert_reading_matches_construction,
    plant,
    plant_several,
)
from tests.support.models.planting import ATTENDS, Attend
from tests.support.models.random_models import random_lean
from tests.support.oracle.compare_tables import assert_reading_agrees, assert_tables_agree
from tests.support.oracle.measuring import measure_tables
from tests.support.oracle.scan import scan_tables
from tests.support.oracle.v_composition import reading_tables
from tests.support.tiers import seeds

READINGS = ["frozen", "recompute"]
SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"n_layers": 1, "n_heads": 2, "d_model": 16},
    "gelu": {"n_layers": 2, "n_heads": 4, "d_model": 32},
    "deep gelu": {"n_layers": 4, "n_heads": 2, "d_model": 40},
    "gpt2": {"n_layers": 3, "n_heads": 3, "d_model": 24, "d_head": 5, "act_fn": "gelu_new"},
    "attention only": {"n_layers": 3, "n_heads": 3, "d_model": 24, "attn_only": True},
    "one head": {"n_layers": 4, "n_heads": 1, "d_model": 12, "attn_only": True},
    "wide heads": {"n_layers": 2, "n_heads": 3, "d_model": 18, "d_head": 11},
}


def draw(config: ModelConfig, shape: tuple[int, int] = (6, 23), seed: int = 61) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def choose_positions(shape: tuple[int, int], n: int) -> np.ndarray:
    every = np.tile(np.arange(shape[1]), (shape[0], 1))
    return np.sort(np.random.default_rng(0).permuted(every, axis=1)[:, :n], axis=1)


def undo_what_is_read(weights: dict[str, torch.Tensor]) -> None:
    """Make the last layer's first head write against whatever it reads, so that a random model has erasers."""
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][-1, 0].T


IN_EVERY_RUN = ("one layer", "gelu", "attention only", "wide heads")
ALSO_OTHERWISE = ("gelu", "attention only")
"""Shapes on which every run recomputes scales and measures position 0 too; others do nightly."""


@pytest.mark.parametrize(
    ("kind", "ln", "first_position"),
    [
        *(
            pytest.param(kind, "frozen", False, marks=[pytest.mark.nightly] * (kind not in IN_EVERY_RUN))
            for kind in SHAPES
        ),
        *(
            pytest.param(kind, ln, first, marks=[pytest.mark.nightly] * (kind not in ALSO_OTHERWISE))
            for kind in SHAPES
            for ln, first in (("recompute", False), ("frozen", True), ("recompute", True))
        ),
    ],
)
def test_every_row_agrees_with_the_oracle(kind: str, ln: str, first_position: bool) -> None:
    config, weights, _ = random_lean(list(SHAPES).index(kind), **SHAPES[kind])
    undo_what_is_read(weights)
    tokens = draw(config)
    fast = measure_tables(LeanModel(config, weights), tokens, ln=ln, first_position=first_position)
    oracle = reading_tables(config, weights, tokens, ln=ln, first_position=first_position)
    assert_reading_agrees(fast, oracle, spearman=True)
    assert_tables_agree(fast, scan_tables(config, weights, tokens, first_position=first_position))
    assert fast["v_composition"]["beta_first"].isna().all() == first_position
    assert kind == "one layer" or any(oracle["writers"]["erasers"]), "there should be erasers to agree on"


def test_the_threshold_decides_who_erases_and_who_opposes() -> None:
    config, weights, _ = random_lean(78, n_layers=4, n_heads=2)
    undo_what_is_read(weights)
    tokens, model, listed = draw(config), LeanModel(config, weights), []
    for tau in (0.05, 0.4, 0.6):
        oracle = reading_tables(config, weights, tokens, tau=tau)
        assert_reading_agrees(measure_tables(model, tokens, tau=tau), oracle, tau)
        listed.append(sum(bool(erasers) for erasers in oracle["writers"]["erasers"]))
    assert listed[0] > listed[1] > listed[2]


@pytest.mark.parametrize("ln", READINGS)
def test_float64_agrees_too(ln: str) -> None:
    config, weights, model = random_lean(70, n_layers=3, dtype=torch.float64)
    tokens = draw(config)
    assert_reading_agrees(measure_tables(model, tokens, ln=ln), reading_tables(config, weights, tokens, ln=ln))


@pytest.mark.parametrize("ln", READINGS)
def test_the_source_and_position_0_add_up_to_the_whole_output(ln: str) -> None:
    config, _, model = random_lean(79, n_layers=4, n_heads=3, dtype=torch.float64)
    tokens, measured = draw(config), np.tile(np.arange(1, 23), (6, 1))
    apart = measure_tables(model, tokens, ln=ln, first_position=False)["v_composition"]
    whole = measure_tables(model, tokens, measured, ln=ln, first_position=True)["v_composition"]
    np.testing.assert_allclose(apart["beta"] + apart["beta_first"], whole["beta"], rtol=0, atol=1e-10)
    assert apart["beta_first"].abs().max() > 0.01


@pytest.mark.parametrize("ln", READINGS)
@pytest.mark.parametrize("attn_only", [False, True])
def test_measured_positions_are_those_that_were_asked_for(attn_only: bool, ln: str) -> None:
    config, weights, model = random_lean(71, n_layers=3, n_heads=2, attn_only=attn_only)
    tokens, positions = draw(config), choose_positions((6, 23), 7)
    fast = measure_tables(model, tokens, positions, ln=ln)
    assert set(fast["dla_correlation"]["n"]) == {42}
    assert_reading_agrees(fast, reading_tables(config, weights, tokens, positions, ln=ln), spearman=True)


@pytest.mark.parametrize("ln", ["frozen", pytest.param("recompute", marks=pytest.mark.nightly)])
def test_large_constant_parts_leave_every_number_intact(ln: str) -> None:
    config, weights, _ = random_lean(72, n_layers=3)
    constant = torch.randn(config.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    constant -= constant.mean()
    for name in ("W_E", "b_out"):
        weights[name] = weights[name] + 20.0 * constant / constant.norm()
    tokens = draw(config, (8, 40))
    found = measure_tables(LeanModel(config, weights), tokens, ln=ln)["v_composition"]
    exact = reading_tables(config, weights, tokens, ln=ln)["v_composition"]
    for column in ("beta", "beta_centred"):
        error = np.abs(found[column].to_numpy(float) - exact[column].to_numpy(float))
        assert np.nanmax(error / np.maximum(1.0, exact[column].abs().to_numpy(float))) < 1e-4, column


def test_writers_and_erasers_without_output() -> None:
    config, weights, _ = random_lean(73, n_layers=3)
    weights["W_O"][1, 2] = 0.0
    weights["W_V"][2, 1] = 0.0
    weights["W_pos"][:] = 0.0
    weights["W_E"][:40] = 0.0
    tokens = draw(config, (6, 30))
    tables = measure_tables(LeanModel(config, weights), tokens)
    assert_reading_agrees(tables, reading_tables(config, weights, tokens))
    rows, lines = (tables[name].set_index("writer") for name in ("v_composition", "dla_correlation"))
    numbers = [column for column in rows.columns if column not in ("model", "eraser", "n")]
    assert rows.loc[["L1H2", "pos_embed"], numbers].isna().all(axis=None)
    assert set(rows.loc["L1H2", "n"]) == {0}
    assert set(rows.loc["embed", "n"]) == {int((tokens >= 40).sum())}
    assert lines.loc["L1H2", ["r", "spearman", "slope", "intercept"]].isna().all(axis=None)
    assert set(lines.loc["L1H2", "n"]) == {180}


def test_every_token_at_once_may_be_the_same() -> None:
    """One measured token: no correlation and no line, but a projection."""
    config, weights, model = random_lean(74, n_layers=2, n_heads=2)
    tokens, positions = draw(config, (1, 9)), np.array([[8]])
    fast = measure_tables(model, tokens, positions)
    assert_reading_agrees(fast, reading_tables(config, weights, tokens, positions))
    assert fast["dla_correlation"][["r", "slope"]].isna().all(axis=None)
    assert fast["v_composition"]["beta"].notna().all()


@pytest.mark.parametrize("ln", READINGS)
@pytest.mark.parametrize(
    "split", [{"batch": 1}, {"batch": 4}, {"block": 1}, {"block": 6}, {"writers": 1}, {"writers": 5}]
)
def test_however_the_work_is_split_the_numbers_stay(split: dict[str, int], ln: str) -> None:
    config, _, model = random_lean(75, n_layers=3, n_heads=2)
    tokens = draw(config)
    whole, parts = measure_tables(model, tokens, ln=ln), measure_tables(model, tokens, **split, ln=ln)
    for name, key in (("v_composition", "eraser"), ("dla_correlation", "effect"), ("writers", "writer")):
        assert parts[name][key].equals(whole[name][key])
    for column in ("beta", "beta_centred"):
        np.testing.assert_allclose(parts["v_composition"][column], whole["v_composition"][column], atol=1e-5)
    for column in ("q12_5", "median", "q87_5"):
        for spread in ("clean", "patched", "v_composed"):
            a, b = (t["v_composition"][f"{spread}_{column}"].to_numpy() for t in (whole, parts))
            assert np.all(np.abs(a - b) <= (1 + np.abs(a)) / 120), column
    for column in ("r", "slope", "intercept", "spearman"):
        a, b = (t["dla_correlation"][column].to_numpy(float) for t in (whole, parts))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=column)
    for name in ("v_composition", "dla_correlation"):
        assert parts[name]["n"].equals(whole[name]["n"])


@pytest.mark.parametrize("ln", READINGS)
@pytest.mark.parametrize("attn_only", [False, True])
def test_the_parts_of_heads_add_up(attn_only: bool, ln: str) -> None:
    config, _, model = random_lean(76, n_layers=4, n_heads=3, attn_only=attn_only)
    tables = measure_tables(model, draw(config), ln=ln)
    for _, rows in tables["v_composition"].groupby("writer"):
        is_head = rows["eraser"].str.contains("H")
        later = rows[rows["eraser"] == "later"].iloc[0]
        for column in ("beta", "beta_centred"):
            assert rows[is_head][column].sum() == pytest.approx(later[column], abs=1e-6)
            attention = rows[rows["eraser"].str.startswith("attn")][column]
            assert attention.sum() == pytest.approx(later[column], abs=1e-6)


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize(("writer", "eraser"), [("L0H0", "L2H0"), ("MLP0", "L1H1"), ("embed", "L0H1")])
@pytest.mark.parametrize("ln", READINGS)
def test_a_planted_eraser_is_measured_as_it_was_built(attend: Attend, writer: str, eraser: str, ln: str) -> None:
    planted = plant(81, attend, 0.7, writer=writer, eraser=eraser)
    tokens = draw(planted.config, (5, 16))
    tables = measure_tables(LeanModel(planted.config, planted.weights), tokens, ln=ln)
    assert_reading_matches_construction(tables, planted, tokens, sketched=True, tolerance=2e-3)
    assert_matches_construction(tables, planted, tokens, sketched=True)
    ledger = tables["writers"].set_index("writer").loc[writer]
    assert eraser in ledger["erasers"].split("+")


@pytest.mark.parametrize("ln", READINGS)
@pytest.mark.parametrize("seed", seeds(2, nightly=8))
def test_several_plants_at_random_places_are_all_found_and_nothing_else(seed: int, ln: str) -> None:
    garden = plant_several(seed, n_plants=1 + seed % 3, attn_only=seed % 4 == 1)
    tokens = draw(garden.config, (5, 16))
    writers = measure_tables(LeanModel(garden.config, garden.weights), tokens, ln=ln)["writers"].set_index("writer")
    for planted in garden.plants:
        erased = -planted.expected(tokens).beta("later")
        assert writers.loc[planted.writer, "erasers"] == planted.eraser
        assert writers.loc[planted.writer, "erased"] == pytest.approx(erased, rel=0.02)
        assert writers.loc[planted.writer, "v_composition_share"] == pytest.approx(1.0, rel=0.02)
    assert writers["erasers"].to_dict() == garden.erasers(tokens)
    first = writers["rank"].sort_values().index[: len(garden.plants)]
    assert set(first) == {planted.writer for planted in garden.plants}, "plants should rank before all else"


@pytest.mark.parametrize("ln", READINGS)
@pytest.mark.parametrize("attn_only", [False, True])
def test_with_none_planted_none_is_found(attn_only: bool, ln: str) -> None:
    garden = plant_several(7, n_plants=0, attn_only=attn_only)
    tables = measure_tables(LeanModel(garden.config, garden.weights), draw(garden.config, (5, 16)), ln=ln)
    assert set(tables["writers"]["erasers"]) == {""}
    assert tables["writers"]["erased"].abs().max() < 5e-3


@pytest.mark.parametrize("kind", DECOYS)
@pytest.mark.parametrize("seed", seeds(1, nightly=2))
@pytest.mark.parametrize("ln", READINGS)
def test_decoys_are_no_erasers(kind: str, seed: int, ln: str) -> None:
    decoy = plant_decoy(kind, seed, attn_only=seed == 1)
    tables = measure_tables(LeanModel(decoy.config, decoy.weights), draw(decoy.config, (5, 16)), ln=ln)
    ledger = tables["writers"].set_index("writer").loc[decoy.writer]
    assert (ledger["erasers"], ledger["opposing"]) == (decoy.erasers, decoy.opposing)
    assert ledger["erased"] == pytest.approx(decoy.erased, abs=5e-3)


@pytest.mark.parametrize("seed", seeds(1, nightly=2))
@pytest.mark.parametrize("ln", READINGS)
def test_components_that_share_a_constant_are_no_erasers(seed: int, ln: str) -> None:
    shared = plant_shared_constant(seed, attn_only=seed == 1)
    tables = measure_tables(LeanModel(shared.config, shared.weights), draw(shared.config, (5, 16)), ln=ln)
    ledgers = tables["writers"].set_index("writer")
    assert set(ledgers["erasers"]) == {""}
    for writer in shared.signs:
        assert ledgers.loc[writer, "opposing"] == "+".join(shared.opposing(writer)), writer


def test_an_eraser_undoes_its_writers_attribution_in_proportion() -> None:
    planted = plant(82, "self", 0.8)
    model = LeanModel(planted.config, planted.weights)
    lines = measure_tables(model, draw(planted.config, (5, 16)))["dla_correlation"]
    lines = lines[(lines["writer"] == planted.writer) & (lines["eraser"] == planted.eraser)]
    assert list(lines["effect"]) == ["full", "v_composition"]
    np.testing.assert_allclose(lines["slope"], -0.8, atol=5e-3)
    np.testing.assert_allclose(lines["r"], -1.0, atol=5e-3)


def test_ranks_order_by_what_is_erased() -> None:
    config, _, model = random_lean(77, n_layers=3)
    writers: pd.DataFrame = measure_tables(model, draw(config))["writers"]
    ranked = writers.dropna(subset="rank").sort_values("rank")
    assert list(ranked["rank"]) == list(range(1, len(ranked) + 1))
    assert ranked["erased"].is_monotonic_decreasing
    assert writers[writers["erased"].isna()]["rank"].isna().all()
    assert set(writers[writers["rank"].isna()]["writer"]) == {"L2H0", "L2H1", "L2H2", "L2H3", "MLP2"}
