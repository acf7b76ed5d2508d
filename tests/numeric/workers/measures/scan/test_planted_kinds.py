"""What is planted behind grouped value heads and behind norms is found, in the right fraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from tests.support.models.planted import (
    Planted,
    assert_matches_construction,
    assert_reading_matches_construction,
)
from tests.support.models.planted_kinds import ERASER, KINDS, WRITER, Kind, plant_kind
from tests.support.oracle.measuring import measure_tables
from tests.support.oracle.scan import scan_tables
from tests.support.oracle.v_composition import reading_tables


def draw(planted: Planted) -> np.ndarray:
    return np.random.default_rng(11).integers(0, planted.config.d_vocab, (4, planted.config.n_ctx))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.4, 0.9])
def test_the_oracle_finds_the_eraser(kind: Kind, fraction: float) -> None:
    planted = plant_kind(kind, 1, fraction)
    tokens = draw(planted)
    assert_matches_construction(scan_tables(planted.config, planted.weights, tokens), planted, tokens)
    reading = reading_tables(planted.config, planted.weights, tokens)
    assert_reading_matches_construction(reading, planted, tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_scan_finds_the_eraser(kind: Kind, dtype: torch.dtype) -> None:
    planted = plant_kind(kind, 2)
    tokens = draw(planted)
    tables = measure_tables(LeanModel(planted.config, planted.weights, dtype=dtype), tokens)
    assert_matches_construction(tables, planted, tokens, sketched=True)
    assert_reading_matches_construction(tables, planted, tokens, sketched=True)
    assert tables["writers"].set_index("writer").loc[WRITER, "erasers"] == ERASER


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"fraction": 0.82}, {"attend": "self"}, {"eraser": "L2H0"}])
def test_another_construction_is_told_apart(kind: Kind, wrong: dict[str, object]) -> None:
    """L2H0 reads the values that the eraser reads: which of a group writes them back is told from its outputs alone."""
    planted = plant_kind(kind, 3)
    tokens = draw(planted)
    tables = measure_tables(LeanModel(planted.config, planted.weights), tokens)
    with pytest.raises(AssertionError, match="by construction"):
        assert_matches_construction(tables, planted._replace(**wrong), tokens, sketched=True)
