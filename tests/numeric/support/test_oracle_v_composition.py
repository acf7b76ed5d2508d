"""The oracle of reading: against TransformerLens with edited values, against sums, by hand, on plants and decoys."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.numeric.support.test_oracle_scan import (
    SHAPES,
    bridge_states,
    bridge_terms,
    gpt2_bridge,
    native_bridge,
    read_bridge,
)
from tests.support.models.decoys import DECOYS, plant_decoy, plant_shared_constant
from tests.support.models.planted import assert_reading_matches_construction, plant, plant_several
from tests.support.models.planting import ATTENDS, Attend
from tests.support.models.random_models import random_config, random_lean
from tests.support.oracle import dla as oracle_dla
from tests.support.oracle import scan as oracle
from tests.support.oracle import v_composition as reading_oracle
from tests.support.oracle.sublayers import centre
from tests.support.oracle.v_composition import reading_tables
from tests.support.tiers import seeds

AGREEMENT = 1e-10
READINGS = ["frozen", pytest.param("recompute", marks=pytest.mark.nightly)]


def draw(config: ModelConfig, n_prompts: int = 4, length: int | None = None, seed: int = 21) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, (n_prompts, length or config.n_ctx))


def open_bridge(kind: str, folder: Path) -> TransformerBridge:
    bridge = gpt2_bridge(folder) if kind == "gpt2" else native_bridge(**SHAPES[kind])
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def edited_head(
    bridge: TransformerBridge, tokens: torch.Tensor, head: str, values: torch.Tensor, change: str
) -> np.ndarray:
    """A head's output [batch, pos, d_model] from a bridge run with its values [batch, pos, d_head] edited."""
    layer, index = oracle.layer_of_head(head), int(head.split("H")[1])
    kept = {}

    def edit(v: torch.Tensor, hook: object) -> torch.Tensor:
        v = v.clone()
        v[:, :, index] = v[:, :, index] - values if change == "frozen" else values
        return v

    def keep(z: torch.Tensor, hook: object) -> None:
        kept["z"] = z[:, :, index]

    hooks = [(f"blocks.{layer}.attn.hook_v", edit), (f"blocks.{layer}.attn.hook_z", keep)]
    bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    return (kept["z"] @ bridge.W_O[layer, index]).numpy()


@pytest.mark.parametrize("kind", [*SHAPES, "gpt2"])
@pytest.mark.parametrize("ln", READINGS)
@torch.no_grad()
def test_patched_heads_agree_with_the_bridge(kind: str, ln: str, tmp_path: Path) -> None:
    bridge = open_bridge(kind, tmp_path)
    config, weights = read_bridge(bridge)
    tokens = torch.from_numpy(draw(config, n_prompts=2))
    _, cache = bridge.run_with_cache(tokens)
    terms, states = bridge_terms(bridge, config, cache), bridge_states(config, cache)
    reading = reading_oracle.read(config, weights, tokens, ln=ln)
    rows = reading_tables(config, weights, tokens, ln=ln)["v_composition"].set_index(["writer", "eraser"])
    pairs = sorted(reading.parts)
    for writer, head in [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:6]]:
        layer, index = oracle.layer_of_head(head), int(head.split("H")[1])
        written = terms[writer]
        if ln == "frozen":
            scale = cache[f"blocks.{layer}.ln1.hook_scale"].reshape(*tokens.shape, 1)
            value_input = (written - written.mean(-1, keepdim=True)) / scale
        else:
            stream = states["resid_pre0" if layer == 0 else f"resid_post{layer - 1}"] - written
            value_input = torch.nn.functional.layer_norm(stream, (config.d_model,), eps=config.eps)
        patched = edited_head(bridge, tokens, head, value_input @ bridge.W_V[layer, index], ln)
        expected = (terms[head].numpy() - patched).reshape(-1, config.d_model)
        np.testing.assert_allclose(reading.parts[writer, head], expected, atol=AGREEMENT, rtol=0)
        w = written.numpy().reshape(-1, config.d_model)
        ratios = (patched.reshape(-1, config.d_model) * w).sum(axis=1) / (w * w).sum(axis=1)
        quartiles = rows.loc[(writer, head), ["patched_q25", "patched_median", "patched_q75"]].to_numpy(float)
        np.testing.assert_allclose(quartiles, np.quantile(ratios, [0.25, 0.5, 0.75]), atol=AGREEMENT)


@pytest.mark.parametrize("kind", [*SHAPES, "gpt2"])
@torch.no_grad()
def test_dla_of_all_terms_is_the_bridges_logit_difference(kind: str, tmp_path: Path) -> None:
    bridge = open_bridge(kind, tmp_path)
    config, weights = read_bridge(bridge)
    tokens = torch.from_numpy(draw(config, n_prompts=2))
    logits = bridge(tokens).flatten(0, 1)
    top = logits.topk(2, dim=-1)
    biases = (bridge.b_U[top.indices[:, 0]] - bridge.b_U[top.indices[:, 1]]).numpy()
    reading = reading_oracle.read(config, weights, tokens)
    attributed = sum(oracle_dla.attribute(term, reading.to_logits) for term in reading.measured.terms.values())
    difference = (top.values[:, 0] - top.values[:, 1]).numpy()
    np.testing.assert_allclose(attributed + biases, difference, atol=AGREEMENT)
    assert np.abs(attributed).max() > 0.1


@pytest.mark.parametrize("attn_only", [False, True])
@pytest.mark.parametrize("ln", READINGS)
def test_parts_add_up(ln: str, attn_only: bool) -> None:
    config, weights, _ = random_lean(31, n_layers=3, n_heads=2, attn_only=attn_only)
    tables = reading_tables(config, weights, draw(config, 3, 9), ln=ln)
    rows = tables["v_composition"].set_index(["writer", "eraser"])
    for writer in ("embed", "L0H1", "L1H0"):
        mine = rows.loc[writer]
        for column in ("beta", "beta_centred"):
            heads = mine[mine.index.str.startswith("L")][column]
            assert mine.loc["later", column] == pytest.approx(heads.sum(), abs=1e-12)
            attention = mine[mine.index.str.startswith("attn")][column]
            assert mine.loc["later", column] == pytest.approx(attention.sum(), abs=1e-12)
            in_layer_2 = heads[heads.index.str.startswith("L2")]
            assert mine.loc["attn2", column] == pytest.approx(in_layer_2.sum(), abs=1e-12)
    slopes = tables["dla_correlation"].set_index(["writer", "eraser", "effect"])["slope"].loc["embed"]
    for effect in ("full", "v_composition"):
        by_eraser = slopes.xs(effect, level="effect")
        heads = by_eraser[by_eraser.index.str.startswith("L")]
        assert by_eraser["later"] == pytest.approx(heads.sum(), abs=1e-9)


def test_frozen_parts_are_the_formula() -> None:
    """u_e[p] = Σ_j A_e[p, j] ((o_w[j] − mean o_w[j]) / scale[j]) W_V W_O, one pair of positions at a time."""
    config, weights, _ = random_lean(32, n_layers=2, n_heads=2)
    w = oracle.as_numpy(weights)
    tokens = draw(config, 1, 6)
    run = oracle.forward(config, w, tokens[0])
    part = reading_oracle.read(config, w, tokens).parts["L0H1", "L1H0"]
    written, ov = run.terms["L0H1"], w["W_V"][1, 0] @ w["W_O"][1, 0]
    for p in range(6):
        expected = np.zeros(config.d_model)
        for j in range(p + 1):
            expected += run.patterns["L1H0"][p, j] * (written[j] - written[j].mean()) / run.ln1_scales[1][j] @ ov
        np.testing.assert_allclose(part[p], expected, atol=1e-13)


@pytest.mark.parametrize("ln", READINGS)
def test_without_every_writer_nothing_is_left_to_read(ln: str) -> None:
    config, weights, _ = random_lean(33, n_layers=1, n_heads=2)
    weights["W_pos"][:] = 0.0
    reading = reading_oracle.read(config, weights, draw(config, 2, 7), ln=ln)
    np.testing.assert_allclose(reading.parts["embed", "L0H1"], reading.measured.terms["L0H1"], atol=1e-13)
    assert not reading.parts["pos_embed", "L0H1"].any()


@pytest.mark.parametrize("attn_only", [False, True])
def test_rows_stand_in_order(attn_only: bool) -> None:
    config, weights, _ = random_lean(34, n_layers=3, n_heads=2, attn_only=attn_only)
    tables = reading_tables(config, weights, draw(config, 2, 5))
    erasers = tables["v_composition"].groupby("writer", sort=False)["eraser"].apply(list)
    layer_0, layer_1, layer_2 = ([f"L{layer}H0", f"L{layer}H1", f"attn{layer}"] for layer in range(3))
    embedding = [*layer_0, *layer_1, *layer_2, "later"]
    in_layer_0, in_layer_1 = [*layer_1, *layer_2, "later"], [*layer_2, "later"]
    expected = {"embed": embedding, "pos_embed": embedding, "L0H0": in_layer_0, "L0H1": in_layer_0}
    expected |= ({} if attn_only else {"MLP0": in_layer_0}) | {"L1H0": in_layer_1, "L1H1": in_layer_1}
    expected |= {} if attn_only else {"MLP1": in_layer_1}
    assert erasers.to_dict() == expected
    assert list(erasers.index) == list(expected)
    pairs = tables["v_composition"][["writer", "eraser"]].itertuples(index=False)
    effects = tables["dla_correlation"][["writer", "eraser", "effect"]].itertuples(index=False, name=None)
    assert list(effects) == [(*pair, effect) for pair in pairs for effect in ("full", "v_composition")]
    last = tables["writers"].set_index("writer").loc["L2H1"]
    assert (last["erasers"], last["opposing"]) == ("", "")
    assert last[["erased", "erased_centred", "v_composition_share", "dla_r", "rank"]].isna().all()
    assert sorted(tables["writers"]["rank"].dropna()) == list(range(1, len(expected) + 1))


def test_chosen_positions_read_from_all_positions() -> None:
    config, weights, _ = random_lean(35, n_layers=2, n_heads=2)
    tokens, positions = draw(config, 2, 9), np.array([[1, 8], [0, 5]])
    chosen, everything = (reading_oracle.read(config, weights, tokens, p) for p in (positions, None))
    rows = [1, 8, 9 + 0, 9 + 5]
    for pair, part in everything.parts.items():
        np.testing.assert_array_equal(chosen.parts[pair], part[rows])
    np.testing.assert_array_equal(chosen.to_logits.direction, everything.to_logits.direction[rows])
    tables = reading_tables(config, weights, tokens, positions)
    assert set(tables["v_composition"]["n"]) == set(tables["dla_correlation"]["n"]) == {4}


def test_the_two_most_likely_tokens_by_hand() -> None:
    assert oracle_dla.top_two([0.0, 3.0, 1.0, 2.0]) == (1, 3)
    assert oracle_dla.top_two([2.0, 1.0, 2.0, 2.0]) == (0, 2)
    assert oracle_dla.top_two([1.0, 5.0, 1.0]) == (1, 0)


def test_attribution_by_hand() -> None:
    directions = centre(random_config(norm="layer"), np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]))
    to = oracle_dla.Readout(np.array([2.0, 0.5]), directions)
    np.testing.assert_allclose(oracle_dla.attribute(np.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), to), [1.5, 8.0])
    np.testing.assert_allclose(oracle_dla.attribute(np.ones((2, 3)), to), [0.0, 0.0], atol=1e-12)


def test_lines_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert oracle_dla.correlate(x, 5.0 - 2.0 * x) == {"r": -1.0, "slope": -2.0, "intercept": 5.0, "spearman": -1.0}
    line = oracle_dla.correlate(x, x**3)
    assert line["slope"] == pytest.approx(8.8)
    assert line["intercept"] == pytest.approx(-4.2)
    assert line["r"] == pytest.approx(np.corrcoef(x, x**3)[0, 1])
    assert line["spearman"] == pytest.approx(1.0)
    flat = oracle_dla.correlate(x, np.full(4, 0.1))
    assert (flat["slope"], flat["intercept"]) == (0.0, pytest.approx(0.1))
    assert math.isnan(flat["r"]) and math.isnan(flat["spearman"])
    assert all(math.isnan(value) for value in oracle_dla.correlate(np.full(4, 0.1), x).values())
    assert oracle_dla.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_ranks_by_hand() -> None:
    ranks = reading_oracle.ranking([0.1, math.nan, 0.4, 0.1, -2.0])
    assert math.isnan(ranks.pop(1))
    assert ranks == [2.0, 1.0, 3.0, 4.0]


def hand_made() -> reading_oracle.Reading:
    """A head that writes e0, one behind it that takes half of that away by reading, one that is negative by itself."""
    writer = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    zero, base = np.zeros_like(writer), np.tile([0.0, 1.0], (3, 1))
    bias = np.tile([0.25, 0.0], (3, 1))
    terms = {"embed": base, "pos_embed": zero, "L0H0": writer, "L0H1": zero, "b_O0": zero}
    terms |= {"L1H0": bias - 0.5 * writer, "L1H1": -0.3 * writer, "b_O1": bias}
    components = terms | {"attn1": terms["L1H0"] + terms["L1H1"] + bias}
    states = {"resid_pre0": base, "resid_post0": base + writer, "resid_post1": base + writer + components["attn1"]}
    last_term = {"resid_pre0": "pos_embed", "resid_post0": "b_O0", "resid_post1": "b_O1"}
    parts = {("L0H0", "L1H0"): -0.5 * writer, ("L0H0", "L1H1"): 0.1 * writer}
    to_logits = oracle_dla.Readout(np.ones(3), np.tile([1.0, -1.0], (3, 1)))
    measured = oracle.Measured(terms, components, states, last_term)
    parts_first = {("L0H0", "L1H0"): 0.2 * writer, ("L0H0", "L1H1"): -0.1 * writer}
    return reading_oracle.Reading(measured, parts, parts_first, to_logits, [np.array([0, 1]), np.array([2])])


def test_rows_by_hand() -> None:
    reading = hand_made()
    values = {
        row.eraser: reading_oracle.composition_statistics(reading, "L0H0", row, 0.05) for row in reading.rows("L0H0")
    }
    assert list(values) == ["L1H0", "L1H1", "attn1", "later"]
    # PR of the bias: 1/4, 1/8, 1/16, so that of the clean head −1/4, −3/8, −7/16.
    assert values["L1H0"]["clean_median"] == -0.375
    assert [values[eraser]["beta_first"] for eraser in values] == pytest.approx([0.2, -0.1, 0.1, 0.1])
    assert values["L1H0"]["patched_median"] == 0.125
    assert values["L1H0"]["v_composed_median"] == values["L1H0"]["beta"] == -0.5
    assert values["attn1"]["clean_median"] == pytest.approx(-0.55)
    assert values["attn1"]["patched_median"] == pytest.approx(-0.15)
    assert values["later"]["clean_median"] == pytest.approx(-0.675)
    assert values["later"]["patched_median"] == pytest.approx(-0.275)
    assert [values["later"]["beta"], values["attn1"]["beta_centred"]] == pytest.approx([-0.4, -0.4])
    assert {row["n"] for row in values.values()} == {3}


def test_a_writers_columns_by_hand() -> None:
    reading = hand_made()
    composition, correlation = [], []
    for row in reading.rows("L0H0"):
        key = {"writer": "L0H0", "eraser": row.eraser}
        composition.append(key | reading_oracle.composition_statistics(reading, "L0H0", row, 0.05))
        correlation += [key | effect for effect in reading_oracle.dla_effects(reading, "L0H0", row)]
    tables = pd.DataFrame(composition).assign(significant=[True, False, None, None]), pd.DataFrame(correlation)
    values = reading_oracle.reading_ledger(reading, "L0H0", *tables, tau=0.05)
    assert (values["erasers"], values["opposing"], values["significant_erasers"]) == ("L1H0", "L1H1", 1)
    # β of the eraser's full output: −1/2 + Σ w/4 / Σ w² = −1/2 + 1.75/21.
    assert values["v_composition_share"] == pytest.approx(-0.5 / (-0.5 + 1.75 / 21.0))
    assert (values["dla_r"], values["dla_slope"]) == (pytest.approx(-1.0), pytest.approx(-0.4))
    stricter = reading_oracle.reading_ledger(reading, "L0H0", *tables, tau=0.45)
    assert (stricter["erasers"], stricter["opposing"]) == ("L1H0", "")
    assert reading_oracle.reading_ledger(reading, "L0H0", *tables, tau=0.55)["erasers"] == ""
    nothing = reading_oracle.reading_ledger(reading, "L0H1", *tables, tau=0.05)
    assert pd.isna(pd.Series(nothing)).all()


def test_a_writer_without_output_has_no_numbers() -> None:
    config, weights, _ = random_lean(36, n_layers=2, n_heads=2)
    weights["W_O"][0, 1] = 0.0
    weights["W_V"][1, 0] = 0.0
    tables = reading_tables(config, weights, draw(config, 2, 6))
    silent = tables["v_composition"].query("writer == 'L0H1'")
    assert set(silent["n"]) == {0}
    assert silent[list(reading_oracle.V_COMPOSITION)].isna().all(axis=None)
    lines = tables["dla_correlation"].set_index(["writer", "eraser", "effect"])
    assert set(lines["n"]) == {12}
    assert lines.loc["L0H1", list(oracle_dla.LINE)].isna().all(axis=None)
    flat = lines.loc[("L0H0", "L1H0", "v_composition")]
    assert math.isnan(flat["r"]) and math.isnan(flat["spearman"])
    assert (flat["slope"], flat["intercept"]) == (0.0, 0.0)
    assert tables["writers"].set_index("writer").loc["L0H1"].isna().all()


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize(("writer", "eraser"), [("L0H0", "L2H0"), ("MLP0", "L1H1"), ("embed", "L0H1")])
@pytest.mark.parametrize("ln", READINGS)
def test_a_planted_eraser_reads_what_it_was_built_to_read(attend: Attend, writer: str, eraser: str, ln: str) -> None:
    planted = plant(41, attend, 0.7, writer=writer, eraser=eraser)
    tokens, positions = draw(planted.config), np.tile([0, 2, 5, 6, 11, 15], (4, 1))
    tables = reading_tables(planted.config, planted.weights, tokens, positions, ln=ln)
    assert_reading_matches_construction(tables, planted, tokens, positions)
    assert planted.eraser in tables["writers"].set_index("writer").loc[writer, "erasers"].split("+")


def test_an_eraser_undoes_its_writers_attribution_in_proportion() -> None:
    planted = plant(42, "self", 0.8)
    lines = reading_tables(planted.config, planted.weights, draw(planted.config))["dla_correlation"]
    lines = lines[(lines["writer"] == planted.writer) & (lines["eraser"] == planted.eraser)]
    np.testing.assert_allclose(lines["slope"], -0.8, atol=1e-3)
    np.testing.assert_allclose(lines[["r", "spearman"]], -1.0, atol=1e-3)
    np.testing.assert_allclose(lines["intercept"], 0.0, atol=1e-3)


@pytest.mark.parametrize("seed", seeds(1, nightly=3))
@pytest.mark.parametrize("ln", READINGS)
def test_several_plants_are_all_found_and_nothing_else(seed: int, ln: str) -> None:
    garden = plant_several(seed, n_plants=2 + seed % 2, attn_only=seed == 2)
    tokens = draw(garden.config, 3)
    tables = reading_tables(garden.config, garden.weights, tokens, ln=ln)
    for planted in garden.plants:
        assert_reading_matches_construction(tables, planted, tokens, tolerance=1e-2)
        assert planted.expected(tokens).opposing() == planted.eraser, "the construction should be one that can be found"
    assert dict(zip(tables["writers"]["writer"], tables["writers"]["erasers"], strict=True)) == garden.erasers(tokens)


@pytest.mark.parametrize("attn_only", [False, True])
@pytest.mark.parametrize("ln", READINGS)
def test_with_none_planted_none_is_found(ln: str, attn_only: bool) -> None:
    garden = plant_several(7, n_plants=0, attn_only=attn_only)
    writers = reading_tables(garden.config, garden.weights, draw(garden.config), ln=ln)["writers"]
    assert set(writers["erasers"]) == {""}
    assert writers["erased"].abs().max() < 2e-3
    assert any(writers["opposing"]), "some heads should be negative by chance"


@pytest.mark.parametrize("kind", DECOYS)
@pytest.mark.parametrize("seed", seeds(1, nightly=2))
@pytest.mark.parametrize("ln", READINGS)
def test_decoys_are_no_erasers(kind: str, seed: int, ln: str) -> None:
    decoy = plant_decoy(kind, seed, attn_only=seed == 1)
    tables = reading_tables(decoy.config, decoy.weights, draw(decoy.config), ln=ln)
    ledger = tables["writers"].set_index("writer").loc[decoy.writer]
    assert (ledger["erasers"], ledger["opposing"]) == (decoy.erasers, decoy.opposing)
    assert ledger["erased"] == pytest.approx(decoy.erased, abs=2e-3)
    if decoy.beta_full is not None:
        components = oracle.scan_tables(decoy.config, decoy.weights, draw(decoy.config))["component_projection"]
        full = components.set_index(["writer", "component"]).loc[(decoy.writer, decoy.head), "beta"]
        assert full == pytest.approx(decoy.beta_full, abs=2e-3)


@pytest.mark.parametrize("seed", seeds(1, nightly=2))
@pytest.mark.parametrize("ln", READINGS)
def test_components_that_share_a_constant_are_no_erasers(seed: int, ln: str) -> None:
    shared = plant_shared_constant(seed, attn_only=seed == 1)
    ledgers = reading_tables(shared.config, shared.weights, draw(shared.config), ln=ln)["writers"].set_index("writer")
    assert set(ledgers["erasers"]) == {""}
    assert ledgers["erased"].abs().max() < 5e-3
    for writer in shared.signs:
        assert ledgers.loc[writer, "opposing"] == "+".join(shared.opposing(writer)), writer
    assert sum(bool(listed) for listed in ledgers["opposing"]) > 3
