"""The same numbers on a GPU, where there is one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Target
from tests.support.models.random_models import random_lean
from tests.support.oracle.measuring import measure_tables, measure_verify

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]


def assert_same(on_cpu: dict[str, pd.DataFrame], on_gpu: dict[str, pd.DataFrame]) -> None:
    """The same rows in every table, words and counts equal, numbers within a bin of the sketch."""
    assert on_cpu.keys() == on_gpu.keys()
    for name, table in on_cpu.items():
        assert len(table) == len(on_gpu[name]) > 0, name
        assert list(table) == list(on_gpu[name]), name
        for column in table:
            a, b = table[column], on_gpu[name][column]
            if not pd.api.types.is_float_dtype(a):
                assert a.equals(b), (name, column)
                continue
            assert np.array_equal(np.isnan(a), np.isnan(b)), (name, column)
            # Means and coefficients are far closer.
            np.testing.assert_allclose(b, a, rtol=0.008, atol=0.008, err_msg=f"{name} {column}")


@pytest.mark.parametrize("ln", ["frozen", "recompute"])
def test_a_gpu_gives_the_numbers_of_the_cpu(ln: str) -> None:
    config, weights, model = random_lean(21, n_layers=3)
    tokens = np.random.default_rng(21).integers(0, config.d_vocab, (6, 23))
    assert_same(*(measure_tables(m, tokens, ln=ln) for m in (model, LeanModel(config, weights, "cuda"))))


def test_a_gpu_verifies_as_the_cpu_does() -> None:
    config, weights, model = random_lean(21, n_layers=3)
    tokens = np.random.default_rng(21).integers(0, config.d_vocab, (6, 38))
    targets = (
        Target("L0H1", ("L1H0", "L2H3"), "rule"),
        Target("embed", ("L0H0", "L0H2"), "named"),
        Target("MLP0", tuple(f"L{layer}H{head}" for layer in (1, 2) for head in range(4)), "all"),
    )
    told = {"positions": 20, "given": ((3, 1, 4, 1, 5), (9,))}
    assert_same(*(measure_verify(m, tokens, targets, **told) for m in (model, LeanModel(config, weights, "cuda"))))
