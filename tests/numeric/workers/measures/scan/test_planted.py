"""The oracle finds in planted models what their construction says, and the construction holds what it promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.models.planted import Planted, assert_matches_construction, plant
from tests.support.models.planting import ATTENDS, CARRIER, Attend, attended
from tests.support.oracle import scan as oracle


def draw_tokens(planted: Planted, n_prompts: int = 4, seed: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, planted.config.d_vocab, (n_prompts, planted.config.n_ctx), generator=generator)


def measure(planted: Planted, tokens: torch.Tensor) -> dict[str, pd.DataFrame]:
    return oracle.scan_tables(planted.config, planted.weights, tokens)


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("attn_only", [False, True])
def test_the_oracle_finds_the_eraser(attend: Attend, attn_only: bool) -> None:
    planted = plant(seed=1, attend=attend, fraction=0.8, attn_only=attn_only)
    tokens = draw_tokens(planted)
    tables = measure(planted, tokens)
    assert_matches_construction(tables, planted, tokens)
    ledger = tables["writers"].set_index("writer").loc[planted.writer]
    assert ledger["opposing"] == "L2H0"
    assert ledger["opposed"] < -0.3


@pytest.mark.parametrize(
    ("writer", "eraser"),
    [("embed", "L0H1"), ("pos_embed", "L1H2"), ("MLP0", "L2H2"), ("MLP1", "L2H0"), ("L1H2", "L2H1")],
)
@pytest.mark.parametrize("attend", ATTENDS)
def test_the_oracle_finds_the_eraser_of_any_writer(attend: Attend, writer: str, eraser: str) -> None:
    planted = plant(seed=2, attend=attend, fraction=0.6, writer=writer, eraser=eraser)
    tokens = draw_tokens(planted)
    assert_matches_construction(measure(planted, tokens), planted, tokens)


def test_the_oracle_finds_the_eraser_at_chosen_positions() -> None:
    planted = plant(seed=3, attend="previous", fraction=1.2, n_heads=1)
    tokens = draw_tokens(planted)
    positions = torch.tensor([[0, 3, 9], [1, 2, 15], [4, 8, 12], [5, 6, 7]])
    tables = oracle.scan_tables(planted.config, planted.weights, tokens, positions)
    assert planted.reinforcer is None
    assert_matches_construction(tables, planted, tokens, positions)
    with pytest.raises(AssertionError):
        assert_matches_construction(tables, planted, tokens, positions.flip(0))


def test_without_a_plant_nothing_is_erased() -> None:
    planted = plant(seed=4, fraction=0.0)
    tokens = draw_tokens(planted)
    tables = measure(planted, tokens)
    assert_matches_construction(tables, planted, tokens)
    ledgers = tables["writers"].set_index("writer")
    assert ledgers.loc[planted.writer, "opposing"] == ""
    assert abs(ledgers.loc[planted.writer, "opposed"]) < 1e-9
    assert ledgers.loc[planted.eraser].isna().all(), "a head that writes nothing has no ledger"


@pytest.mark.parametrize("wrong", [{"fraction": 0.81}, {"reinforcement": 0.26}, {"attend": "uniform"}])
def test_another_construction_is_told_apart(wrong: dict[str, object]) -> None:
    planted = plant(seed=5, attend="self", fraction=0.8)
    tokens = draw_tokens(planted)
    with pytest.raises(AssertionError, match="by construction"):
        assert_matches_construction(measure(planted, tokens), planted._replace(**wrong), tokens)


def test_values_of_the_construction_by_hand() -> None:
    planted = plant(seed=6, attend="self", fraction=0.8, reinforcement=0.25)
    expected = planted.expected(draw_tokens(planted))
    np.testing.assert_allclose(expected.pr(planted.eraser), -0.8)
    np.testing.assert_allclose(expected.pr("resid_mid1"), 1.0)
    np.testing.assert_allclose(expected.pr("resid_post2"), 0.45)
    assert expected.beta("L2H0", centred=True) == pytest.approx(-0.8)
    assert expected.ledger()["opposed"] == pytest.approx(-0.8)
    assert expected.ledger()["reinforced"] == pytest.approx(0.25)
    assert expected.ledger()["remaining_centred"] == pytest.approx(0.45)
    assert expected.opposing() == "L2H0"


def test_attended_positions_by_hand() -> None:
    assert attended("previous", 3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(attended("uniform", 3), [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert attended("self", 2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("attend", ATTENDS)
def test_the_construction_holds_what_it_promises(attend: Attend) -> None:
    planted = plant(seed=7, attend=attend, n_ctx=24)
    tokens = draw_tokens(planted, n_prompts=1)
    run = oracle.forward(planted.config, planted.weights, tokens[0].tolist())
    np.testing.assert_allclose(run.patterns[planted.eraser], attended(attend, 24), atol=1e-6)
    scales = np.concatenate([*run.ln1_scales, *run.ln2_scales, run.final_scale])
    np.testing.assert_allclose(scales, CARRIER / np.sqrt(planted.config.d_model), rtol=5e-4)
    for label, vectors in run.terms.items():
        np.testing.assert_allclose(vectors.mean(axis=1), 0.0, atol=1e-10, err_msg=label)
        if label not in (planted.writer, planted.eraser, planted.reinforcer):
            np.testing.assert_allclose(vectors @ planted.store.T, 0.0, atol=1e-10, err_msg=label)
            assert np.abs(vectors).max() > 0.01, f"{label} should write something"


def test_a_plant_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="not in a layer behind"):
        plant(seed=0, writer="L2H0", eraser="L2H1")
    with pytest.raises(ValueError, match="too small"):
        plant(seed=0, d_model=16)
