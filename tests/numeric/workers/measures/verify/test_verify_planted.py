"""Verify on models that were built: what is planted is measured as it was planted, and where nothing is, nothing is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Target
from tests.support.models.decoys import DECOYS, plant_decoy
from tests.support.models.planted import plant, plant_several
from tests.support.models.planting import ATTENDS, CARRIER, Attend, Builder, small_config
from tests.support.models.random_models import random_lean
from tests.support.oracle.measuring import measure_verify
from tests.support.tiers import seeds


def draw(config: ModelConfig, n_prompts: int = 12, seed: int = 71) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, (n_prompts, config.n_ctx))


def measure(
    config: ModelConfig, weights: dict[str, torch.Tensor], *targets: Target, n_prompts: int = 12, places: int = 0
) -> dict[str, pd.DataFrame]:
    return measure_verify(
        LeanModel(config, weights), draw(config, n_prompts), targets, block=3, batch=3, places=places, seed=1
    )


def layer_heads(config: ModelConfig, layer: int) -> tuple[str, ...]:
    return tuple(f"L{layer}H{head}" for head in range(config.n_heads))


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize(("writer", "eraser"), [("L0H0", "L2H0"), ("MLP0", "L1H1"), ("embed", "L0H1")])
def test_without_its_erasers_the_writer_stays_as_it_was(attend: Attend, writer: str, eraser: str) -> None:
    planted = plant(51, attend, 1.0, writer=writer, eraser=eraser)
    tables = measure(planted.config, planted.weights, Target(writer, (eraser,), "named"))
    rows = tables["patched_residual_projection"].set_index(["patch", "state"])
    erased, final = f"resid_mid{eraser[1]}", "resid_post2"
    expected = planted.expected(draw(planted.config))
    before, change = expected.beta("resid_pre0") if writer == "embed" else 1.0, expected.beta("later")
    for state in (erased, final):
        for patch in ("group", "layer"):
            assert rows.loc[(patch, state), "clean_beta"] == pytest.approx(before + change, abs=2e-3)
        # The whole layer's values do not see the writer, its reinforcer's neither; or the eraser's alone.
        assert rows.loc[("layer", state), "patched_beta"] == pytest.approx(before, abs=2e-3)
        assert rows.loc[("layer", state), "patched_median"] == pytest.approx(before, abs=0.01)
        reinforced = before + expected.beta(planted.reinforcer)
        assert rows.loc[("group", state), "patched_beta"] == pytest.approx(reinforced, abs=2e-3)
    assert change < -0.05
    group = tables["eraser_group"].iloc[-1]
    assert group["beta"] == pytest.approx(expected.beta(eraser), abs=2e-3)
    assert group["patched_median"] == pytest.approx(0.0, abs=5e-3)
    assert group["verdict"] == "erased"
    later = tables["later_use"]
    assert later["clean_beta"].abs().max() < 5e-3


def test_the_loss_says_what_erasing_is_worth() -> None:
    """A model that reads tokens off the store alone, wrongly: erased, every token is as likely; left, the loss is higher."""
    planted = plant(60, "self", 1.0, reinforcement=0.0)
    scale = np.sqrt(CARRIER**2 / planted.config.d_model + planted.config.eps)
    directions = 2.0 * np.random.default_rng(4).standard_normal((len(planted.store), planted.config.d_vocab))
    planted.weights["W_U"][:] = torch.from_numpy(scale * planted.store.T @ directions)
    planted.weights["b_U"][:] = 0.0
    tables = measure(planted.config, planted.weights, Target(planted.writer, (planted.eraser,), "named"))
    tokens = draw(planted.config)
    logits = torch.from_numpy(planted.table[tokens[:, :-1]] @ planted.store.T @ directions)
    left = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(tokens[:, 1:].flatten()))
    rows = tables["patched_loss"].set_index("patch")
    worth = float(left) - np.log(planted.config.d_vocab)
    assert worth > 0.5
    for patch in ("group", "layer"):
        assert rows.loc[patch, "clean_loss"] == pytest.approx(np.log(planted.config.d_vocab), abs=1e-3)
        assert rows.loc[patch, "increase_mean"] == pytest.approx(worth, abs=5e-3)
        assert 0.0 < rows.loc[patch, "increase_mean_low"] < worth < rows.loc[patch, "increase_mean_high"]
    assert set(rows["n"]) == {12 * (planted.config.n_ctx - 1)}


def test_where_nothing_is_erased_erasing_is_worth_nothing() -> None:
    planted = plant(61, "self", 0.0, reinforcement=0.0)
    tables = measure(planted.config, planted.weights, Target(planted.writer, (planted.eraser,), "named"))
    row = tables["patched_loss"].set_index("patch").loc["group"]
    assert row["clean_loss"] > 1.0
    assert row[["increase_mean", "q12_5", "q87_5"]].astype(float).abs().max() < 1e-6


def test_every_reading_of_the_effect_is_minus_what_was_planted() -> None:
    planted = plant(52, "self", 0.8, n_ctx=40)
    tables = measure(planted.config, planted.weights, Target(planted.writer, (planted.eraser,), "named"), n_prompts=6)
    lines = tables["dla_correlation"].set_index("effect")
    np.testing.assert_allclose(lines["slope"].astype(float), -0.8, atol=2e-3)
    np.testing.assert_allclose(lines[["r", "spearman"]].astype(float), -1.0, atol=2e-3)
    np.testing.assert_allclose(lines[["slope_low", "slope_high"]].astype(float), -0.8, atol=2e-3)
    assert lines.loc["without_pattern", "n"] == 6 * 7
    points = tables["dla_points"]
    np.testing.assert_allclose(points["eraser_dla"], -0.8 * points["writer_dla"], atol=5e-3)


def test_without_its_pattern_an_eraser_acts_where_the_writer_wrote() -> None:
    """A head that reads the position before: its OV circuit undoes the writer, its output undoes what stood before."""
    planted = plant(53, "previous", 0.8, n_ctx=40)
    tables = measure(planted.config, planted.weights, Target(planted.writer, (planted.eraser,), "named"), n_prompts=6)
    lines = tables["dla_correlation"].set_index("effect")
    assert lines.loc["without_pattern", "slope"] == pytest.approx(-0.8, abs=2e-3)
    assert lines.loc["v_composition", "slope"] > -0.7
    np.testing.assert_allclose(
        lines.loc["v_composition", ["r", "slope"]].astype(float),
        lines.loc["downstream", ["r", "slope"]].astype(float),
        atol=2e-3,
    )


def test_what_writers_carry() -> None:
    planted = plant(55, "self", 0.8)
    by_position = plant(56, "self", 0.8, writer="pos_embed", eraser="L1H0")
    rows = measure(planted.config, planted.weights, Target("L0H0", ("L2H0",), "named"))["carries"].set_index("part")
    assert rows.loc["all", "token_share"] == pytest.approx(1.0, abs=2e-3)
    assert rows.loc["all", "position_share"] == pytest.approx(0.0, abs=0.2)
    assert rows.loc["all", "erased_by_group"] == pytest.approx(0.8, abs=2e-3)
    # It attends to itself: what it has from the first position is what it writes there.
    assert rows.loc["bos", "power_share"] == pytest.approx(1.0 / planted.config.n_ctx, rel=0.5)
    config, weights = by_position.config, by_position.weights
    positional = measure(config, weights, Target("pos_embed", ("L1H0",), "named"))["carries"].set_index("part")
    assert list(positional.index) == ["all"]
    assert positional.loc["all", "position_share"] == pytest.approx(1.0, abs=1e-6)
    assert positional.loc["all", "token_share"] == pytest.approx(0.0, abs=0.2)


def test_what_varies_by_document_is_not_taken_for_the_token() -> None:
    """A head writes the mean of a prompt's tokens, of which each prompt has six: one says a sixth of what the head writes."""
    planted = plant(58, "uniform", 1.0, eraser="L1H0", n_ctx=64)
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.choice(rng.choice(planted.config.d_vocab, 6, replace=False), 64) for _ in range(24)])
    model, target = LeanModel(planted.config, planted.weights), Target("L1H0", ("L2H0",), "named")
    rows = measure_verify(model, tokens, [target], block=8, batch=8, places=0, seed=1)["carries"].set_index("part")
    assert -0.05 < rows.loc["all", "token_share"] < 1 / 6 + 0.05  # of all occurrences, most in few prompts, 0.62
    assert rows.loc["all", "position_share"] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("attend", ATTENDS)
def test_nothing_else_is_erased_as_the_writer_is(attend: Attend) -> None:
    planted = plant(57, attend, 0.9, reinforcement=0.0, varied=True)
    nulls = measure(planted.config, planted.weights, Target("L0H0", (planted.eraser,), "named"))["nulls"]
    beta = nulls.set_index(["null", "of"])["beta"]
    erased = beta["measured", "v_composed"].item()
    assert erased == pytest.approx(planted.expected(draw(planted.config)).beta("L2H0"), abs=2e-3)
    assert beta["measured", "clean"].item() == pytest.approx(erased, abs=2e-3)
    for null in ("siblings", "placebo"):
        rows = (nulls["null"] == null) & (nulls["of"] == "v_composed")
        assert nulls["beta"][rows].abs().max() < 0.3 * abs(erased)
    assert beta["shuffled", "clean"].item() > beta["measured", "clean"].item()


@pytest.mark.parametrize(("fraction", "n_erasers", "left"), [(1.0, 1, 0.0), (1.0, 3, 0.0), (0.5, 4, 0.0625)])
def test_erasers_in_series_take_out_what_is_there(fraction: float, n_erasers: int, left: float) -> None:
    """One full eraser, three in a row, four of one half: the group takes out 1, 1 and 0.9375 of the writer."""
    config = small_config(1 + n_erasers, 2)
    builder = Builder(config, np.random.default_rng(5), quiet=True)
    builder.plant_writer("L0H0")
    erasers = tuple(f"L{layer}H0" for layer in range(1, 1 + n_erasers))
    for head in erasers:
        builder.plant_reader(head, "self", -fraction)
    tables = measure(config, builder.tensors(), Target("L0H0", erasers, "named"), n_prompts=6)
    rows = tables["eraser_group"]
    assert rows["beta"].iloc[-1] == pytest.approx(left - 1.0, abs=2e-3)
    taken = [-fraction * (1.0 - fraction) ** before for before in range(n_erasers)]
    np.testing.assert_allclose(rows["beta"].iloc[:n_erasers].astype(float), taken, atol=2e-3)
    carried = tables["carries"].set_index("part").loc["all", "erased_by_group"]
    assert carried == pytest.approx(1.0 - left, abs=2e-3)


@pytest.mark.parametrize("kind", DECOYS)
@pytest.mark.parametrize("seed", seeds(1, nightly=2))
def test_decoys_have_no_verdict_of_erasure(kind: str, seed: int) -> None:
    decoy = plant_decoy(kind, seed, attn_only=seed == 1)
    group = measure(decoy.config, decoy.weights, Target(decoy.writer, (decoy.head,), "named"))["eraser_group"]
    row = group.iloc[-1]
    assert row["verdict"] == ("erased" if decoy.erasers else "not found")
    assert -row["beta"] == pytest.approx(decoy.erased, abs=2e-3)


@pytest.mark.parametrize("attn_only", [False, True])
def test_with_nothing_planted_nothing_is_verified(attn_only: bool) -> None:
    garden = plant_several(58, n_plants=0, attn_only=attn_only)
    targets = [
        Target(writer, tuple(h for later in range(layer + 1, 4) for h in layer_heads(garden.config, later)), "named")
        for writer, layer in (("L0H1", 0), ("L1H2", 1), ("embed", -1))
    ]
    tables = measure(garden.config, garden.weights, *targets, n_prompts=6)
    groups = tables["eraser_group"][tables["eraser_group"]["eraser"].isin([target.label for target in targets])]
    assert list(groups["verdict"]) == 3 * ["not found"]
    patched = tables["patched_residual_projection"]
    np.testing.assert_allclose(patched["patched_beta"].astype(float), patched["clean_beta"].astype(float), atol=0.02)


@pytest.mark.parametrize("seed", seeds(1, nightly=2))
def test_on_random_weights_the_numbers_look_like_their_nulls(seed: int) -> None:
    config, weights, _ = random_lean(seed + 80, n_layers=3, n_heads=4, n_ctx=24)
    targets = [Target(f"L0H{head}", ("L1H1", "L2H0"), "named") for head in range(4)]
    tables = measure(config, weights, *targets, n_prompts=9)
    assert set(tables["eraser_group"].query("eraser == 'L1H1+L2H0'")["verdict"]) == {"not found"}
    nulls = tables["nulls"].set_index(["null", "of"])["beta"].abs()
    measured = nulls.loc[[("measured", "v_composed")]]
    others = nulls.loc[[("placebo", "v_composed"), ("siblings", "v_composed")]]
    assert measured.max() < 4 * others.max()
