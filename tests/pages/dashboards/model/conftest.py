"""Two invented models, for every test of what verify adds to a model's page; a file that needs others has its own."""

from __future__ import annotations

import pytest

from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model
from tests.support.fakes.verified_models import NAMED


@pytest.fixture(scope="module")
def model() -> ModelTables:
    """Eight prompts of twelve tokens in two blocks; of L0H1 a named group, and what the rule finds."""
    return fake_model("m", 3, 3, seed=3, n_tokens=96, d_model=40, zero=("L1H1",), verify=True, groups={"L0H1": NAMED})


@pytest.fixture(scope="module")
def block() -> ModelTables:
    """Two prompts, one block: no intervals and no verdicts."""
    return fake_model("one", 2, 2, seed=2, n_tokens=24, d_model=16, verify=True, tokenizer=False)
