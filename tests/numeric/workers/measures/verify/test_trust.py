"""Trust and mediation against the literal oracle; and what must add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.random_models import random_lean
from tests.support.oracle.compare_verify import assert_table_agrees, assert_trust_agrees
from tests.support.oracle.measuring import measure_verify
from tests.support.oracle.verify_setting import arrange
from tests.support.oracle.verify_trust import ablated, replaced, rotated, scan_means, trust_tables

SHAPES: dict[str, dict[str, Any]] = {
    "gelu": {"n_layers": 3, "n_heads": 2, "d_model": 24},
    "attention only": {"n_layers": 3, "n_heads": 3, "d_model": 24, "attn_only": True},
    "one layer": {"n_layers": 1, "n_heads": 2, "d_model": 16},
}


def draw(config: ModelConfig, shape: tuple[int, int] = (9, 24), seed: int = 61) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def both(
    kind: str, dtype: torch.dtype, positions: int | None = None, first_position: bool = False, **told: Any
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The fast tables and the oracle's: of prompts behind the third the first 20 tokens each; means from the first three."""
    config, weights, model = random_lean(list(SHAPES).index(kind) + 7, dtype=dtype, **SHAPES[kind])
    tokens, drawn = draw(config), {"block": 3, "seed": 4, "first_prompt": 3, "first_position": first_position}
    means = scan_means(arrange(config, weights, tokens[:3], None, **drawn | {"first_prompt": 0}))
    fast = measure_verify(model, tokens, (), positions, means=means, trust_tokens=20, rotated_prompts=4, **drawn | told)
    of_trust, few = (arrange(config, weights, tokens[: 3 + n, :20], positions, **drawn) for n in (6, 4))
    rows = trust_tables(of_trust, dict(zip(config.layout.terms, means, strict=True)), few)
    return fast, {name: pd.DataFrame(found) for name, found in rows.items()}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "first_position"),
    [(torch.float64, 1e-8, False), (torch.float64, 1e-8, True), (torch.float32, 1e-4, False)],
)
def test_every_row_agrees_with_the_oracle(
    kind: str, dtype: torch.dtype, tolerance: float, first_position: bool
) -> None:
    fast, oracle = both(kind, dtype, first_position=first_position)
    for name, rows in oracle.items():
        assert_table_agrees(name, fast[name], rows, tolerance)
    assert_trust_agrees(fast["dla_trust"], oracle["dla_trust"], tolerance)


@pytest.mark.parametrize("split", [{"batch": 1, "writers": 2}, {"batch": 3, "writers": 5}])
def test_at_some_positions_and_however_the_work_is_split(split: dict[str, int]) -> None:
    fast, oracle = both("gelu", torch.float64, 7, **split)
    for name, rows in oracle.items():
        assert_table_agrees(name, fast[name], rows, 1e-8)
    assert set(fast["dla_trust"]["n"]) == {6 * 7} and set(fast["dla_trust"]["n_rotated"]) == {4 * 7}


@pytest.mark.parametrize("kind", SHAPES)
def test_direct_change_and_what_is_mediated_are_the_effect_at_every_token(kind: str) -> None:
    config, weights, _ = random_lean(17, **SHAPES[kind])
    tokens = draw(config, (3, 12))
    s = arrange(config, weights, tokens, None, block=3, seed=1, first_prompt=0)
    means = dict(zip(config.layout.terms, scan_means(s), strict=True))
    for writer in s.stream.writers:
        for field in (replaced(s, writer, means[writer]), rotated(s, writer)):
            run = ablated(s, writer, field)
            for row in s.rows:
                mediated = np.sum([of[row] for of in run.mediated.values()], axis=0)
                np.testing.assert_allclose(run.direct[row] + mediated, run.effect[row], atol=1e-10, rtol=0)
    assert np.abs(np.concatenate(run.effect)).max() > 1e-3


def test_shares_of_mediators_add_up_to_what_does_not_arrive() -> None:
    fast, _ = both("gelu", torch.float64)
    mediated = fast["dla_mediation"].groupby("writer", sort=False)["share"].sum()
    np.testing.assert_allclose(1.0 + mediated, fast["dla_trust"]["share"], atol=1e-10)
    assert mediated.abs().max() > 0.05


def test_a_word_that_rotated_outputs_do_not_give_is_not_settled() -> None:
    fast, _ = both("gelu", torch.float64)
    differ = fast["dla_trust"][fast["dla_trust"]["trust"] != fast["dla_trust"]["rotated_trust"]]
    assert len(differ) and not differ["settled"].any()


def test_a_writer_that_never_varies_has_a_constant_attribution_and_one_without_output_none() -> None:
    config, weights, _ = random_lean(5, n_layers=2, n_heads=2, d_model=16)
    weights["W_O"][0, 0] = 0.0
    weights["W_out"][0] = 0.0
    fast = measure_verify(LeanModel(config, weights), draw(config, (4, 12)), (), block=2)["dla_trust"]
    rows = fast.set_index("writer")
    assert rows.loc["MLP0", "trust"] == "constant" and bool(rows.loc["MLP0", "settled"])
    assert rows.loc["MLP0", "constant"] == pytest.approx(1.0)
    assert rows.loc["MLP0", ["share", "r", "size", "concordance"]].isna().all()
    assert rows.loc["L0H0", ["trust", "settled", "share", "constant"]].isna().all()


def test_one_prompt_has_words_and_no_intervals() -> None:
    config, _, model = random_lean(6, n_layers=2, n_heads=2, d_model=16)
    rows = measure_verify(model, draw(config, (1, 16)), (), block=2)["dla_trust"]
    assert rows["trust"].notna().all()
    assert rows[["share_low", "r_high", "size_low", "concordance_low", "constant_high"]].isna().all().all()
    assert rows["settled"].isna().all() and rows["rotated_trust"].isna().all()
