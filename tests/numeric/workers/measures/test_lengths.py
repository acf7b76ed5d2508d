"""Prompts of different lengths: every table against the literal oracle, which runs each prompt by itself, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.scan.erasers import random_signs
from erasure_sweep.workers.measures.traced_prompts import traced_prompts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import PADDING, prompt_lengths
from erasure_sweep.workers.records import PathsWork, ShardTask, Target, WriterBlock
from tests.support.models.random_models import KINDS, random_config, random_processed_weights
from tests.support.oracle.compare_tables import assert_reading_agrees, assert_tables_agree
from tests.support.oracle.compare_verify import assert_verify_agrees
from tests.support.oracle.erasers import eraser_rows, random_betas
from tests.support.oracle.measuring import measure_tables, measure_verify
from tests.support.oracle.paths import path_tables
from tests.support.oracle.scan import kept_positions, scan_tables
from tests.support.oracle.sublayers import shared
from tests.support.oracle.v_composition import reading_tables
from tests.support.oracle.verify import verify_tables

LENGTHS = (7, 2, 10, 10, 4)
GELU: dict[str, Any] = {}
MODELS = {"GPT-2's kind": GELU, **{kind: KINDS[kind] for kind in ("Llama", "Gemma")}}


def model_of(kind: str) -> tuple[ModelConfig, dict[str, torch.Tensor], LeanModel]:
    """A random model whose last layer's first head writes against whatever it reads, so that it has an eraser."""
    config = random_config(**{"n_layers": 3, "n_heads": 2, "d_model": 16} | MODELS[kind])
    weights = random_processed_weights(config, list(MODELS).index(kind))
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][shared(config, (config.n_layers - 1, 0))].T
    return config, weights, LeanModel(config, weights, dtype=torch.float64)


def draw(config: ModelConfig, width: int = max(LENGTHS), lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    tokens = np.random.default_rng(61).integers(0, config.d_vocab, (len(lengths), width))
    return np.where(np.arange(width) < np.array(lengths)[:, None], tokens, PADDING)


@pytest.mark.parametrize(
    ("kind", "first_position", "ln"),
    [*((kind, False, "frozen") for kind in MODELS), ("GPT-2's kind", True, "frozen"), ("Llama", False, "recompute")],
)
def test_every_row_of_the_scan_agrees(kind: str, first_position: bool, ln: Any) -> None:
    config, weights, model = model_of(kind)
    tokens = draw(config)
    told: dict[str, Any] = {"first_position": first_position}
    fast = measure_tables(model, tokens, ln=ln, block=3, batch=3, **told)
    assert_reading_agrees(fast, reading_tables(config, weights, tokens, ln=ln, block=3, **told), spearman=True)
    assert_tables_agree(fast, scan_tables(config, weights, tokens, **told))
    assert fast["dla_correlation"]["n"].max() == sum(LENGTHS) - (not first_position) * len(LENGTHS)


@pytest.mark.parametrize("kind", MODELS)
def test_every_row_of_paths_and_broad_erasers_agrees(kind: str) -> None:
    config, weights, model = model_of(kind)
    tokens = draw(config)
    fast = measure_tables(model, tokens, first_position=False, block=2, batch=4)
    for name, rows in path_tables(config, weights, tokens, None, False, None).items():
        assert_close(fast[name][rows.columns.tolist()], rows)
    kept = kept_positions(tokens, None, False)
    signs = [*zip(*(random_signs(0, prompt, of_prompt) for prompt, of_prompt in enumerate(kept)), strict=True)]
    random = random_betas(config, weights, tokens, kept, signs, first_position=False)
    pairs = reading_tables(config, weights, tokens, kept, first_position=False)["v_composition"]
    assert_close(fast["erasers"], eraser_rows(pairs, random))


@pytest.mark.parametrize(
    ("kind", "positions"),
    [pytest.param("GPT-2's kind", None, marks=pytest.mark.nightly), ("Llama", 4), ("Gemma", None)],
)
def test_every_row_of_verify_agrees(kind: str, positions: int | None) -> None:
    config, weights, model = model_of(kind)
    tokens, last = draw(config), config.n_layers - 1
    targets = (
        Target("L0H1", ("L1H0", f"L{last}H0"), "named"),
        Target("MLP0", (f"L{last}H0", f"L{last}H1"), "rule"),
    )
    told: dict[str, Any] = {"block": 3, "seed": 5, "first_position": False, "rotated_prompts": 4, "trust_tokens": 8}
    oracle = verify_tables(config, weights, tokens, targets, positions, **told)
    fast = measure_verify(model, tokens, targets, positions, batch=3, **told)
    assert_verify_agrees(fast, oracle, tolerance=1e-8)
    measured = [length - 1 if positions is None else min(positions, length - 1) for length in LENGTHS]
    assert set(fast["eraser_group"]["n"]) == {sum(measured)}
    assert fast["adversarial"]["n"].nunique() > 1, "donors that end before a place lend it nothing"


def test_how_far_the_array_is_filled_up_is_of_no_consequence() -> None:
    config, _, model = model_of("Llama")
    narrow, wide = draw(config), draw(config, 20)
    wide[:, : narrow.shape[1]] = narrow
    for name, table in measure_tables(model, narrow, block=3, batch=3).items():
        pd.testing.assert_frame_equal(table, measure_tables(model, wide, block=3, batch=3)[name])


def test_a_prompt_is_measured_as_it_is_by_itself() -> None:
    config, _, model = model_of("GPT-2's kind")
    tokens = draw(config)
    together, alone = list(traces(model, tokens, len(LENGTHS))), list(traces(model, tokens, 1))
    for (trace, index), (own, _), length in zip(together, alone, LENGTHS, strict=True):
        assert own.z.shape[2] == length
        assert own.positions.tolist() == [list(range(1, length))]
        for name in ("z", "q", "state_norm_sq", "ln1_scale"):
            assert torch.allclose(getattr(trace, name)[:, index], getattr(own, name)[:, 0], atol=1e-12), name


def traces(model: LeanModel, tokens: np.ndarray, batch: int) -> Iterator[tuple[Any, int]]:
    work = PathsWork(WriterBlock(0, 1), False)
    task = ShardTask("", "", "", "", "", 0, len(tokens), None, 0, work, batch, "cpu", "float64")
    return (found[:2] for found in traced_prompts(model, task, torch.from_numpy(tokens), batch, False))


def test_lengths_are_counted() -> None:
    assert prompt_lengths(np.array([[5, 0, 3], [1, 2, PADDING], [0, PADDING, PADDING]])).tolist() == [3, 2, 1]


def assert_close(found: pd.DataFrame, expected: pd.DataFrame, bound: float = 1e-8) -> None:
    assert len(found) == len(expected) > 0
    for column in expected.columns:
        if expected[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], expected[column], rtol=bound, atol=bound, err_msg=column)
        else:
            assert found[column].tolist() == expected[column].tolist(), column
