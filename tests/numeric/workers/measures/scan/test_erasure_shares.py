"""Erasure over all attention paths against literal reruns, and on models in which it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.scan import paths
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import Builder, small_config
from tests.support.models.random_models import random_lean
from tests.support.oracle.measuring import measure_tables
from tests.support.oracle.paths import path_tables

SHAPES: list[dict[str, Any]] = [
    {"n_layers": 3, "n_heads": 3, "d_model": 24, "d_head": 5, "act_fn": "gelu_new"},
    {"n_layers": 4, "n_heads": 2, "d_model": 40},
    {"n_layers": 4, "n_heads": 1, "d_model": 12, "attn_only": True},
]
POSITIONS = np.array([[1, 4, 9], [2, 3, 11], [5, 6, 7], [3, 4, 10], [1, 2, 8]])


def draw(config: ModelConfig, shape: tuple[int, int] = (5, 12), seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def assert_agree(found: pd.DataFrame, expected: pd.DataFrame, bound: float) -> None:
    assert len(found) == len(expected) > 0
    for column in expected.columns:
        if column in ("writer", "eraser") or column.startswith("prompts"):
            assert found[column].tolist() == expected[column].tolist(), column
            continue
        numbers, wanted = found[column].to_numpy(float), expected[column].to_numpy(float)
        slack = bound * np.maximum(1.0, np.abs(np.nan_to_num(wanted)))
        assert (np.isnan(numbers) == np.isnan(wanted)).all(), column
        worst = int(np.nan_to_num(np.abs(numbers - wanted) - slack, nan=-1.0).argmax())
        assert np.isnan(wanted[worst]) or abs(numbers[worst] - wanted[worst]) <= slack[worst], (
            f"{column} of {expected.iloc[worst].to_dict()}: {numbers[worst]}"
        )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 1e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("first_position", [False, True], ids=["from 1", "from 0"])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_every_row_agrees_with_literal_reruns(
    shape: int, first_position: bool, dtype: torch.dtype, bound: float
) -> None:
    config, weights, model = random_lean(shape, dtype=dtype, **SHAPES[shape])
    tokens = draw(config)
    split: dict[str, Any] = {"block": 3, "writers": 4} if first_position else {"block": 2, "paths_centred": 4}
    fast = measure_tables(model, tokens, first_position=first_position, **split)
    exact = path_tables(config, weights, tokens, None, first_position, split.get("paths_centred"))
    for name in ("erasure_shares", "net_dla"):
        assert_agree(fast[name], exact[name], bound)
    read = exact["writers"]
    assert_agree(fast["writers"][read.columns.tolist()], read, bound)


@pytest.mark.parametrize("few", [8, 10**9], ids=["fields in parts", "all fields"])
def test_chosen_positions_and_few_fields_at_a_time(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config, weights, model = random_lean(5, dtype=torch.float64, n_layers=3, n_heads=4, d_model=32)
    monkeypatch.setattr(paths, "FIELD_BYTES", few)
    tokens = draw(config)
    fast = measure_tables(model, tokens, POSITIONS, first_position=False)
    exact = path_tables(config, weights, tokens, POSITIONS, False)
    for name in ("erasure_shares", "net_dla"):
        assert_agree(fast[name], exact[name], 1e-8)


def test_large_constant_parts_leave_the_centred_shares_intact() -> None:
    config, weights, _ = random_lean(12, n_layers=3)
    constant = torch.randn(config.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    constant -= constant.mean()
    weights["W_E"] = weights["W_E"] + 30.0 * constant / constant.norm()
    weights["b_out"] = weights["b_out"] + 30.0 * constant / constant.norm()
    tokens = draw(config, (4, 30))
    fast = measure_tables(LeanModel(config, weights), tokens, first_position=False)["erasure_shares"]
    exact = path_tables(config, weights, tokens, None, False)["erasure_shares"]
    found, wanted = (table["share_centred"].to_numpy(float) for table in (fast, exact))
    assert np.nanmax(np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))) < 1e-3


def test_where_one_layer_is_later_paths_are_direct() -> None:
    """The number of before: −β of the V-composed part of all later heads."""
    config, _, model = random_lean(7, dtype=torch.float64, n_layers=2, n_heads=3, d_model=32)
    tables = measure_tables(model, draw(config), first_position=False)
    shares = tables["erasure_shares"].set_index(["writer", "eraser"])["share"]
    direct = -tables["v_composition"].set_index(["writer", "eraser"])["beta"]
    last = [key for key in shares.index if key[0].startswith(("L0", "MLP0"))]
    np.testing.assert_allclose(shares[last], direct[last], atol=1e-12)
    assert (shares - direct).abs().max() > 1e-4, "embeddings are read by two layers, one behind the other"


def test_shares_add_up_exactly() -> None:
    config, _, model = random_lean(8, dtype=torch.float64, n_layers=4, n_heads=2, d_model=32)
    tables = measure_tables(model, draw(config), first_position=False)
    rows = tables["erasure_shares"]
    erased = tables["writers"].set_index("writer")["erased"]
    for kind in (r"L\d+H\d+", r"attn\d+"):
        of_kind = rows[rows["eraser"].str.fullmatch(kind)]
        total = of_kind.groupby("writer")["share"].sum()
        np.testing.assert_allclose(total, erased[total.index], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("amounts", "erased", "direct"),
    [((1.0,), 1.0, 1.0), ((1.0, 1.0, 1.0), 1.0, 3.0), ((0.5, 0.5, 0.5, 0.5), 0.9375, 2.0)],
    ids=["one full eraser", "three full in a row", "four of one half"],
)
def test_erasers_in_series_take_out_no_more_than_there_is(
    amounts: tuple[float, ...], erased: float, direct: float
) -> None:
    """Each eraser reads the store at its own position and takes out a part of what it holds; other heads write nothing."""
    config = small_config(len(amounts) + 1, 2, n_ctx=16)
    builder = Builder(config, np.random.default_rng(4), quiet=True)
    builder.weights["W_O"][:] = 0.0
    builder.plant_writer("L0H0")
    for layer, amount in enumerate(amounts, start=1):
        builder.plant_reader(f"L{layer}H0", "self", -amount)
    model = LeanModel(config, builder.tensors(), dtype=torch.float64)
    tables = measure_tables(model, draw(config, (6, 16)), first_position=False)
    writer = tables["writers"].set_index("writer").loc["L0H0"]
    assert writer["erased"] == pytest.approx(erased, abs=2e-3)
    assert writer["erased_centred"] == pytest.approx(erased, abs=2e-3)
    assert writer["net_slope"] == pytest.approx(1 - erased, abs=5e-3)
    shares = tables["erasure_shares"].set_index(["writer", "eraser"])["share"]["L0H0"]
    left = np.cumprod([1.0, *(1 - amount for amount in amounts)])
    for layer, amount in enumerate(amounts, start=1):
        assert shares[f"L{layer}H0"] == pytest.approx(amount * left[layer - 1], abs=2e-3)
    pairs = tables["v_composition"].set_index(["writer", "eraser"])["beta"]
    assert -pairs["L0H0", "later"] == pytest.approx(direct, abs=5e-3), "direct paths count them one by one"
