"""The reruns that a real model's numbers are held against, on a tiny one in float64: they are the tables' own definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from erasure_sweep.workers.models.forward import LeanModel
from tests.real.reruns import compare_pairs, compare_trust, heads_of, pairs_of
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.hooked import Hooked
from tests.support.oracle.measuring import measure_tables, measure_verify


def test_pairs_and_trust_are_those_of_the_tables(tmp_path: Path) -> None:
    source, model = files_of(tmp_path, "llama")
    config, weights = float64_weights(MODELS["llama"][0], source)
    lean, hooked = LeanModel(config, weights, dtype=torch.float64), Hooked(model)
    tokens = np.random.default_rng(0).integers(0, config.d_vocab, (5, 15))
    ids = torch.from_numpy(tokens)
    pairs = measure_tables(lean, tokens, first_position=False)["v_composition"]
    trust = measure_verify(lean, tokens, (), block=3, first_position=False)["dla_trust"]
    compared = compare_pairs(hooked, pairs, ids, pairs_of(pairs, 6))
    compared += compare_trust(hooked, trust, ids, ids, heads_of(trust, 4))
    assert len(compared) == 10 and max(abs(each.found) for each in compared) > 0.1
    np.testing.assert_allclose([each.found for each in compared], [each.rerun for each in compared], atol=1e-8)
