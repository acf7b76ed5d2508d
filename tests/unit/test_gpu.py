"""The same numbers on a GPU, where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.measuring import measure_tables
from tests.random_models import random_lean
from workers.trace import LeanModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]


@pytest.mark.parametrize("ln", ["frozen", "recompute"])
def test_a_gpu_gives_the_numbers_of_the_cpu(ln: str) -> None:
    config, weights, model = random_lean(21, n_layers=3)
    tokens = np.random.default_rng(21).integers(0, config.d_vocab, (6, 23))
    on_cpu, on_gpu = (measure_tables(m, tokens, ln=ln) for m in (model, LeanModel(config, weights, "cuda")))
    for name, table in on_cpu.items():
        for column in table.select_dtypes("number"):
            a, b = table[column].to_numpy(float), on_gpu[name][column].to_numpy(float)
            assert np.array_equal(np.isnan(a), np.isnan(b)), (name, column)
            # One bin of the sketch; means and coefficients are far closer.
            np.testing.assert_allclose(b, a, rtol=0.008, atol=0.008, err_msg=f"{name} {column}")
