"""What is chosen for verify of models that were built: amplified writers with an eraser, broad erasers, and nothing."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.workers.measures.verify.targets import NOTHING, choose_targets
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.tables.facts.erasure import clearly_erased
from erasure_sweep.workers.tables.values import Tables
from tests.support.models.broad import plant_broad
from tests.support.models.decoys import plant_amplified
from tests.support.models.planted import plant_several
from tests.support.oracle.measuring import measure_tables
from tests.support.tiers import seeds


def scan(config: ModelConfig, weights: dict, seed: int = 71) -> Tables:
    tokens = np.random.default_rng(seed).integers(0, config.d_vocab, (12, config.n_ctx))
    return measure_tables(LeanModel(config, weights), tokens, block=2, first_position=False)


@pytest.mark.parametrize("seed", seeds(2, 6))
def test_an_amplified_writer_is_chosen_for_its_one_strong_eraser(seed: int) -> None:
    """Others write back twice what the eraser takes: on the whole nothing is erased, and its rank is among the last."""
    model = plant_amplified(seed)
    tables = scan(model.config, model.weights)
    ranks = tables["writers"].set_index("writer")["rank"]
    assert clearly_erased(tables).empty
    assert (ranks[list(model.erasers)] > 3).all()
    chosen = choose_targets(model.config.layout, tables, (), [], 3)
    assert {target.writer: target.erasers for target in chosen.targets} == {w: (e,) for w, e in model.erasers.items()}
    assert all(f"{writer} (strong pair with {eraser}" in chosen.reason for writer, eraser in model.erasers.items())


@pytest.mark.parametrize("seed", seeds(2, 6))
def test_for_a_broad_eraser_a_writer_is_chosen_that_it_erases(seed: int) -> None:
    broad = plant_broad(seed, "heads")
    chosen = choose_targets(broad.config.layout, scan(broad.config, broad.weights), (), [], 1)
    assert f"broad eraser {broad.eraser}" in chosen.reason
    assert {target.erasers for target in chosen.targets} == {(broad.eraser,)}
    assert {target.writer for target in chosen.targets} <= set(broad.writers)


@pytest.mark.parametrize("attn_only", [False, True])
def test_where_nothing_is_planted_nothing_is_listed_or_chosen(attn_only: bool) -> None:
    garden = plant_several(58, n_plants=0, attn_only=attn_only)
    tables = scan(garden.config, garden.weights)
    assert clearly_erased(tables).empty
    assert choose_targets(garden.config.layout, tables, (), [], 3) == ((), NOTHING)
