"""Every table of every stage against the literal oracle, on random models of each kind of architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.scan.erasers import random_signs
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Target
from tests.support.models.random_models import KINDS, random_config, random_processed_weights
from tests.support.oracle.compare_tables import assert_reading_agrees, assert_tables_agree
from tests.support.oracle.compare_verify import assert_verify_agrees
from tests.support.oracle.erasers import eraser_rows, random_betas
from tests.support.oracle.measuring import measure_tables, measure_verify
from tests.support.oracle.paths import path_tables
from tests.support.oracle.scan import forward, scan_tables
from tests.support.oracle.sublayers import capped, shared
from tests.support.oracle.v_composition import reading_tables
from tests.support.oracle.verify import verify_tables

GIVEN = ((3, 1, 4, 1, 5, 9, 2), (11,))


def model_of(kind: str, dtype: torch.dtype = torch.float64) -> tuple[ModelConfig, dict[str, torch.Tensor], LeanModel]:
    """A random model whose last layer's first head writes against whatever it reads, so that it has an eraser."""
    config = random_config(**{"n_layers": 3, "n_heads": 4, "d_model": 32} | KINDS[kind])
    weights = random_processed_weights(config, list(KINDS).index(kind))
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][shared(config, (config.n_layers - 1, 0))].T
    return config, weights, LeanModel(config, weights, dtype=dtype)


def draw(config: ModelConfig, shape: tuple[int, int], seed: int = 61) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_the_oracles(kind: str) -> None:
    config, weights, model = model_of(kind)
    ids = draw(config, (2, 17))
    trace = model.trace(torch.from_numpy(ids), keep_resid=True)
    logits = model.logits(torch.from_numpy(ids)).numpy()
    for prompt, tokens in enumerate(ids):
        run = forward(config, weights, tokens)
        assert list(run.states) == list(config.layout.states)
        assert list(run.terms) == list(config.layout.terms)
        np.testing.assert_allclose(logits[prompt], capped(config, run.logits), atol=1e-12)
        np.testing.assert_allclose(trace.resid_pre[-1, prompt].numpy(), list(run.states.values())[-1], atol=1e-12)
        np.testing.assert_allclose(np.sum(list(run.terms.values()), axis=0), list(run.states.values())[-1], atol=1e-12)
        for layer in range(config.n_layers):
            outputs = torch.einsum("phe,hed->phd", trace.z[layer, prompt], model.w_o(layer))
            for head in range(config.n_heads):
                np.testing.assert_allclose(outputs[:, head].numpy(), run.terms[f"L{layer}H{head}"], atol=1e-12)


IN_EVERY_RUN = [
    pytest.param(kind, marks=[pytest.mark.nightly] * (kind not in ("Llama", "Gemma", "GPT-NeoX"))) for kind in KINDS
]
ALSO_OTHERWISE = ("Gemma", "GPT-NeoX")
"""Kinds on which every run measures in float32 and with recomputed scales too; others do nightly."""


@pytest.mark.parametrize(
    ("kind", "ln", "dtype"),
    [
        *((kind, "frozen", torch.float64) for kind in KINDS),
        *(
            pytest.param(kind, ln, dtype, marks=[pytest.mark.nightly] * (kind not in ALSO_OTHERWISE))
            for kind in KINDS
            for ln, dtype in (("recompute", torch.float64), ("frozen", torch.float32))
        ),
    ],
)
def test_every_row_of_the_scan_agrees(kind: str, ln: Any, dtype: torch.dtype) -> None:
    config, weights, model = model_of(kind, dtype)
    tokens, exact = draw(config, (4, 15)), dtype == torch.float64
    fast = measure_tables(model, tokens, ln=ln, first_position=False)
    assert_reading_agrees(fast, reading_tables(config, weights, tokens, ln=ln, first_position=False), spearman=exact)
    assert_tables_agree(fast, scan_tables(config, weights, tokens, first_position=False))


@pytest.mark.parametrize("kind", IN_EVERY_RUN)
def test_every_row_of_all_paths_agrees(kind: str) -> None:
    config, weights, model = model_of(kind)
    tokens = draw(config, (4, 13))
    fast = measure_tables(model, tokens, first_position=False, block=2, writers=5)
    for name, rows in path_tables(config, weights, tokens, None, False, None).items():
        _assert_close(fast[name][rows.columns.tolist()], rows)


@pytest.mark.parametrize("kind", IN_EVERY_RUN)
def test_every_row_of_broad_erasers_agrees(kind: str) -> None:
    config, weights, model = model_of(kind)
    tokens = draw(config, (3, 12))
    kept = np.tile(np.arange(1, 12), (3, 1))
    signs = np.stack([random_signs(0, prompt, of_prompt) for prompt, of_prompt in enumerate(kept)], axis=1)
    random = random_betas(config, weights, tokens, kept, signs, first_position=False)
    pairs = reading_tables(config, weights, tokens, kept, first_position=False)["v_composition"]
    _assert_close(measure_tables(model, tokens, kept, first_position=False)["erasers"], eraser_rows(pairs, random))


@pytest.mark.parametrize("kind", IN_EVERY_RUN)
def test_every_row_of_verify_agrees(kind: str) -> None:
    config, weights, model = model_of(kind)
    tokens, last = draw(config, (5, 15)), config.n_layers - 1
    targets = (
        Target("L0H1", ("L1H0", f"L{last}H0"), "named"),
        Target("embed", (*(f"L1H{h}" for h in range(config.n_heads)), f"L{last}H0"), "all"),
        Target("MLP0", (f"L{last}H0", f"L{last}H1"), "rule"),
    )
    told: dict[str, Any] = {"block": 3, "given": GIVEN, "seed": 5, "first_position": False}
    oracle = verify_tables(config, weights, tokens, targets, **told)
    assert_verify_agrees(measure_verify(model, tokens, targets, **told), oracle, tolerance=1e-8)


def _assert_close(found: pd.DataFrame, expected: pd.DataFrame, bound: float = 1e-8) -> None:
    assert len(found) == len(expected) > 0
    for column in expected.columns:
        if expected[column].dtype.kind == "f":
            np.testing.assert_allclose(
                found[column].to_numpy(float), expected[column].to_numpy(float), rtol=bound, atol=bound, err_msg=column
            )
        else:
            assert found[column].tolist() == expected[column].tolist(), column
