"""Trust on models that were built: each word, erasure that reads another position, and who takes the attribution back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.tables.facts.trust import WORDS
from tests.support.models.attributions import READER, READINGS, WRITER, Attributed, plant_turning, plant_word
from tests.support.models.planted import plant_several
from tests.support.oracle.measuring import measure_means, measure_verify
from tests.support.tiers import seeds


def measure(config: ModelConfig, weights: dict[str, torch.Tensor], n_prompts: int = 48) -> dict[str, pd.DataFrame]:
    """Trust on so many prompts, its means from as many others."""
    tokens = np.random.default_rng(71).integers(0, config.d_vocab, (2 * n_prompts, config.n_ctx))
    model = LeanModel(config, weights)
    told: dict[str, Any] = {"block": 8, "batch": 8, "seed": 1, "first_position": False}
    means = measure_means(model, tokens[:n_prompts], first=1, block=8, batch=8)
    told |= {"means": means, "first_prompt": n_prompts, "rotated_prompts": 8}
    return measure_verify(model, tokens, (), **told)


def row_of(planted: Attributed, n_prompts: int = 48) -> tuple[pd.Series, dict[str, float]]:
    """The writer's row, and its mediators' shares."""
    tables = measure(planted.config, planted.weights, n_prompts)
    mediators = tables["dla_mediation"].set_index("writer").loc[WRITER].set_index("mediator")["share"]
    return tables["dla_trust"].set_index("writer").loc[WRITER], mediators.to_dict()


@pytest.mark.parametrize("word", READINGS)
def test_each_word_is_found_where_it_was_built(word: str) -> None:
    planted = plant_word(word)
    row, mediators = row_of(planted, 96 if word == "unrelated" else 16)
    assert set(READINGS) == set(WORDS)
    assert (row["trust"], row["settled"], row["rotated_trust"]) == (word, True, word)
    loose = word == "unrelated"  # the share is 1 up to what so many tokens, of so few kinds, leave to chance
    assert row["share"] == pytest.approx(planted.share, abs=0.4 if loose else 5e-3)
    assert mediators.pop(READER) == pytest.approx(planted.mediated, abs=0.4 if loose else 5e-3)
    assert max(map(abs, mediators.values())) < 5e-3
    if word != "cancelled":
        assert row["r"] ** 2 == pytest.approx(planted.r_sq, abs=8e-3)
    if loose:
        assert row["size"] == pytest.approx(10.0, rel=0.4) and row["concordance"] < 0.05
    assert (row["constant"] > 0.99) == (word == "constant")


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 1.0])
def test_erasure_that_reads_the_position_before_counts_whole(fraction: float) -> None:
    """With another prompt's output at shuffled positions the share was 1 − fraction / 2."""
    planted = plant_turning(fraction)
    row, mediators = row_of(planted)
    assert row["share"] == pytest.approx(1.0 - fraction, abs=0.05)
    assert row["rotated_share"] == pytest.approx(1.0 - fraction, abs=0.05)
    assert (row["trust"], row["rotated_trust"], row["settled"]) == (planted.word, planted.word, True)
    assert mediators[READER] == pytest.approx(-fraction, abs=0.05)


@pytest.mark.parametrize("seed", seeds(1, nightly=3))
def test_what_nothing_reads_holds(seed: int) -> None:
    garden = plant_several(seed, n_plants=0, attn_only=True)
    rows = measure(garden.config, garden.weights, 12)["dla_trust"].set_index("writer")
    last = [f"L{garden.config.n_layers - 1}H{head}" for head in range(garden.config.n_heads)]
    for name in ("share", "r", "size", "concordance"):
        np.testing.assert_allclose(rows.loc[last, name].astype(float), 1.0, atol=1e-4)
    heads = rows[rows.index.str.startswith("L")]
    assert set(heads["trust"]) == {"holds"}
