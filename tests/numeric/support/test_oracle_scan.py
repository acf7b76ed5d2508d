"""The oracle itself: against TransformerLens' bridge in float64, against sums, and against examples done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel

from erasure_sweep.workers.models.forward import default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes
from tests.support.models.random_models import random_lean
from tests.support.oracle import scan as oracle
from tests.support.oracle.compare_tables import assert_tables_agree

AGREEMENT = 1e-10
SHAPES = {
    "gelu": {
        "n_layers": 3,
        "n_heads": 4,
        "d_model": 16,
        "d_head": 4,
        "d_mlp": 40,
        "act_fn": "gelu",
        "attn_only": False,
    },
    "narrow heads": {"n_layers": 2, "n_heads": 3, "d_model": 20, "d_head": 5, "d_mlp": 24, "act_fn": "relu"},
    "solu": {"n_layers": 2, "n_heads": 3, "d_model": 20, "d_head": 5, "d_mlp": 24, "act_fn": "solu_ln"},
    "attention only": {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 64, "attn_only": True},
}


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Move every parameter, biases and LayerNorm weights included, away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def native_bridge(**shape: object) -> TransformerBridge:
    config = TransformerBridgeConfig(n_ctx=12, d_vocab=23, normalization_type="LN", seed=0, **shape)
    bridge = TransformerBridge.boot_native(config, dtype=torch.float64)
    randomise(bridge, seed=1)
    return bridge


def gpt2_bridge(folder: Path) -> TransformerBridge:
    """A random GPT-2; its config is read from a folder, because a name would be looked up on the hub."""
    hf_config = GPT2Config(
        n_layer=2, n_head=4, n_embd=16, n_positions=12, vocab_size=23, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(hf_config).double()
    randomise(model, seed=2)
    hf_config.architectures = ["GPT2LMHeadModel"]
    hf_config.save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, device="cpu", dtype=torch.float64)
    return bridge.eval()


def read_bridge(bridge: TransformerBridge) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Config and processed weights as the oracle takes them."""
    cfg = bridge.cfg
    config = ModelConfig(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        n_heads=cfg.n_heads,
        d_head=cfg.d_head,
        d_mlp=0 if cfg.attn_only else cfg.d_mlp,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        act_fn=cfg.act_fn,
        attn_only=bool(cfg.attn_only),
        eps=cfg.eps,
        attn_scale=default_attn_scale(cfg.d_head),
    )
    weights = {name: getattr(bridge, name).detach() for name in weight_shapes(config)}
    assert not bridge.b_V.any(), "value biases should be folded into b_O"
    return config, weights


def bridge_terms(
    bridge: TransformerBridge, config: ModelConfig, cache: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Every component's output from the bridge's own hooks; heads as hook_z @ W_O."""
    terms = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for layer in range(config.n_layers):
        z = cache[f"blocks.{layer}.attn.hook_z"]
        heads = {f"L{layer}H{head}": z[:, :, head] @ bridge.W_O[layer, head] for head in range(config.n_heads)}
        terms |= heads | {f"b_O{layer}": bridge.b_O[layer].expand_as(terms["embed"])}
        if not config.attn_only:
            terms[f"MLP{layer}"] = cache[f"blocks.{layer}.hook_mlp_out"]
    return terms


def bridge_states(config: ModelConfig, cache: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    states = {"resid_pre0": cache["blocks.0.hook_resid_pre"]}
    for layer in range(config.n_layers):
        if not config.attn_only:
            states[f"resid_mid{layer}"] = cache[f"blocks.{layer}.hook_resid_mid"]
        states[f"resid_post{layer}"] = cache[f"blocks.{layer}.hook_resid_post"]
    return states


def worst_gaps(expected: dict[str, torch.Tensor], found: dict[str, np.ndarray], prompt: int) -> dict[str, float]:
    return {label: float(np.abs(expected[label][prompt].numpy() - found[label]).max()) for label in expected}


@pytest.mark.parametrize("kind", [*SHAPES, "gpt2"])
@torch.no_grad()
def test_every_component_and_state_agrees_with_the_bridge(kind: str, tmp_path: Path) -> None:
    bridge = gpt2_bridge(tmp_path) if kind == "gpt2" else native_bridge(**SHAPES[kind])
    bridge.enable_compatibility_mode(disable_warnings=True)
    config, weights = read_bridge(bridge)
    tokens = torch.randint(0, config.d_vocab, (2, 12), generator=torch.Generator().manual_seed(3))
    logits, cache = bridge.run_with_cache(tokens)
    terms, states = bridge_terms(bridge, config, cache), bridge_states(config, cache)
    for prompt in range(len(tokens)):
        run = oracle.forward(config, weights, tokens[prompt].tolist())
        assert list(run.terms) == list(terms) == list(config.layout.terms)
        assert list(run.states) == list(states) == list(config.layout.states)
        gaps = worst_gaps(terms, run.terms, prompt) | worst_gaps(states, run.states, prompt)
        assert {label: gap for label, gap in gaps.items() if gap > AGREEMENT} == {}
        for layer in range(config.n_layers):
            attn_out = cache[f"blocks.{layer}.hook_attn_out"][prompt].numpy()
            np.testing.assert_allclose(run.attention[f"attn{layer}"], attn_out, atol=AGREEMENT, rtol=0)
            scale = cache[f"blocks.{layer}.ln1.hook_scale"][prompt].flatten().numpy()
            np.testing.assert_allclose(run.ln1_scales[layer], scale, atol=AGREEMENT, rtol=0)
            for head in range(config.n_heads):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][prompt, head].numpy()
                np.testing.assert_allclose(run.patterns[f"L{layer}H{head}"], pattern, atol=AGREEMENT, rtol=0)
        final_scale = cache["ln_final.hook_scale"][prompt].flatten().numpy()
        np.testing.assert_allclose(run.final_scale, final_scale, atol=AGREEMENT, rtol=0)
        np.testing.assert_allclose(run.logits, logits[prompt].numpy(), atol=AGREEMENT, rtol=0)


@pytest.mark.parametrize("attn_only", [False, True])
def test_terms_add_up_to_every_state(attn_only: bool) -> None:
    config, weights, _ = random_lean(seed=4, n_layers=3, attn_only=attn_only)
    run = oracle.forward(config, weights, range(20))
    assert len(run.states) == (4 if attn_only else 7)
    for (state, vectors), end in zip(run.states.items(), config.layout.state_ends, strict=True):
        summed = sum(list(run.terms.values())[:end])
        np.testing.assert_allclose(summed, vectors, atol=1e-12, err_msg=state)
    attended = run.terms["L1H0"] + run.terms["L1H1"] + run.terms["L1H2"] + run.terms["L1H3"] + run.terms["b_O1"]
    np.testing.assert_allclose(run.attention["attn1"], attended, atol=1e-13)


def test_projection_ratio_by_hand() -> None:
    assert oracle.projection_ratio((3.0, 0.0), (1.0, 1.0)) == 1.5
    assert oracle.projection_ratio((1.0, 1.0), (3.0, 0.0)) == pytest.approx(1.0 / 3.0)
    assert oracle.projection_ratio((-2.0, 0.0), (1.0, 0.0)) == -2.0
    assert oracle.projection_ratio((0.0, 5.0), (1.0, 0.0)) == 0.0


def test_quantiles_by_hand() -> None:
    assert [oracle.quantile([4.0, 1.0, 3.0, 2.0], q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)] == [
        1.0,
        1.75,
        2.5,
        3.25,
        4.0,
    ]
    assert oracle.quantile([10.0, 20.0], 0.125) == 11.25
    assert oracle.quantile([7.0], 0.875) == 7.0


def test_pooled_coefficients_by_hand() -> None:
    writer = np.array([[1.0, 0.0], [3.0, 0.0]])
    component = np.array([[-1.0, 9.0], [-1.0, 9.0]])
    assert oracle.pooled_coefficient(component, writer) == pytest.approx(-0.4)
    assert oracle.centred_coefficient(component, writer) == 0.0
    assert oracle.centred_coefficient(-writer, writer) == -1.0
    assert math.isnan(oracle.pooled_coefficient(component, np.zeros((2, 2))))
    assert math.isnan(oracle.centred_coefficient(component, np.ones((2, 2))))


def hand_made() -> oracle.Measured:
    """One head that writes e0 at three tokens and nothing at a fourth, undone in part by the next layer's head."""
    writer = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    zero = np.zeros_like(writer)
    base = np.tile([0.0, 1.0], (4, 1))
    terms = {"embed": base, "pos_embed": zero, "L0H0": writer, "b_O0": zero}
    terms |= {"L1H0": -0.5 * writer, "b_O1": np.tile([0.25, 0.0], (4, 1))}
    states = {"resid_pre0": base, "resid_post0": base + writer}
    states["resid_post1"] = states["resid_post0"] + terms["L1H0"] + terms["b_O1"]
    last_term = {"resid_pre0": "pos_embed", "resid_post0": "b_O0", "resid_post1": "b_O1"}
    return oracle.Measured(terms, terms, states, last_term)


def test_statistics_leave_out_tokens_without_a_ratio() -> None:
    measured = hand_made()
    row = oracle.statistics(measured, measured.terms["b_O1"], "L0H0")
    assert row["n"] == 3
    assert (row["q12_5"], row["median"], row["q87_5"]) == (0.15625, 0.25, 0.25)
    assert row["mean"] == row["mean_abs"] == pytest.approx(0.625 / 3)
    assert row["beta"] == pytest.approx(1.0 / 6.0)
    assert row["beta_centred"] == 0.0
    nothing = oracle.statistics(measured, measured.terms["b_O1"], "pos_embed")
    assert nothing.pop("n") == 0
    assert all(math.isnan(value) for value in nothing.values())


def test_ledger_by_hand() -> None:
    measured = hand_made()
    values = oracle.ledger(measured, "L0H0")
    assert values["written"] == 1.0
    assert values["opposed"] == -0.5
    assert values["reinforced"] == pytest.approx(1.0 / 6.0)
    assert values["remaining"] == pytest.approx(1.0 - 0.5 + 1.0 / 6.0)
    assert values["remaining_centred"] == pytest.approx(0.5)
    assert values["reinforced_centred"] == 0.0
    assert all(math.isnan(value) for value in oracle.ledger(measured, "pos_embed").values())


def test_later_is_behind_the_writers_own_sublayer() -> None:
    config, weights, _ = random_lean(seed=5, n_layers=2, n_heads=2)
    measured = oracle.measure(config, weights, torch.arange(8)[None])
    layer_1 = ["L1H0", "L1H1", "b_O1", "MLP1"]
    assert measured.later_terms("pos_embed") == ["L0H0", "L0H1", "b_O0", "MLP0", *layer_1]
    assert measured.later_terms("L0H0") == ["MLP0", *layer_1]
    assert measured.later_terms("MLP0") == layer_1
    assert measured.later_terms("L1H1") == ["MLP1"]
    assert measured.later_terms("MLP1") == []
    written = [measured.written_state(writer) for writer in ("embed", "L0H1", "MLP0", "L1H0")]
    assert written == ["resid_pre0", "resid_mid0", "resid_post0", "resid_mid1"]
    assert [measured.written_state(w) for w in measured.writers] == [
        config.layout.states[config.layout.written_state(w)] for w in config.layout.writers
    ]


def test_opposing_wants_a_later_head_with_a_low_median_and_a_negative_quartile() -> None:
    def row(median: float, q75: float) -> dict[str, object]:
        return {"median": median, "q75": q75, "n": 5}

    rows = {"L0H1": row(-0.9, -0.5), "MLP0": row(-0.9, -0.5), "attn1": row(-0.9, -0.5), "L1H0": row(-0.05, -0.01)}
    rows |= {"L1H1": row(-0.04, -0.01), "L1H2": row(-0.9, 0.01), "L2H0": row(-0.2, -0.1)}
    assert oracle.opposing(rows, "L0H0", tau=0.05) == {"opposing": "L1H0+L2H0"}
    assert oracle.opposing(rows, "MLP1", tau=0.05) == {"opposing": "L2H0"}
    assert oracle.opposing(rows, "embed", tau=0.05) == {"opposing": "L0H1+L1H0+L2H0"}
    assert oracle.opposing(rows, "L2H0", tau=0.05) == {"opposing": ""}
    assert oracle.opposing({"L1H0": row(0.0, 0.0) | {"n": 0}}, "L0H0", tau=0.05) == {"opposing": None}


@pytest.mark.parametrize("attn_only", [False, True])
def test_tables_have_every_row_in_order_and_balance(attn_only: bool) -> None:
    config, weights, _ = random_lean(seed=6, n_layers=2, n_heads=2, attn_only=attn_only)
    tokens = torch.randint(0, config.d_vocab, (3, 10), generator=torch.Generator().manual_seed(6))
    tables = oracle.scan_tables(config, weights, tokens)
    layout = config.layout
    pairs = tables["residual_projection"][["writer", "state"]].itertuples(index=False)
    assert [tuple(pair) for pair in pairs] == [(w, s) for w in layout.writers for s in layout.states]
    pairs = tables["component_projection"][["writer", "component"]].itertuples(index=False)
    assert [tuple(pair) for pair in pairs] == [(w, c) for w in layout.writers for c in layout.components if c != w]
    assert set(tables["residual_projection"]["n"]) == {30}
    ledger = tables["writers"]
    assert list(ledger["writer"]) == list(layout.writers)
    for suffix in ("", "_centred"):
        balance = ledger[f"written{suffix}"] + ledger[f"reinforced{suffix}"] + ledger[f"opposed{suffix}"]
        np.testing.assert_allclose(balance, ledger[f"remaining{suffix}"], atol=1e-12)


def test_chosen_positions_are_measured_and_the_whole_prompt_is_run() -> None:
    config, weights, _ = random_lean(seed=7, n_layers=2, n_heads=2)
    tokens = torch.randint(0, config.d_vocab, (2, 9), generator=torch.Generator().manual_seed(7))
    positions = torch.tensor([[1, 8], [0, 5]])
    chosen = oracle.measure(config, weights, tokens, positions)
    everything = oracle.measure(config, weights, tokens)
    rows = [1, 8, 9 + 0, 9 + 5]
    for label, vectors in everything.components.items():
        np.testing.assert_array_equal(chosen.components[label], vectors[rows])
    tables = oracle.scan_tables(config, weights, tokens, positions)
    assert set(tables["component_projection"]["n"]) == {4}


def test_a_writer_that_is_zero_has_no_statistics() -> None:
    config, weights, _ = random_lean(seed=8, n_layers=2, n_heads=2)
    weights["W_O"][0, 1] = 0.0
    tables = oracle.scan_tables(config, weights, torch.arange(6)[None])
    rows = tables["component_projection"].set_index("writer")
    assert set(rows.loc["L0H1", "n"]) == {0}
    assert rows.loc["L0H1", list(oracle.STATISTICS)].isna().all(axis=None)
    assert set(rows.loc["L0H0", "n"]) == {6}
    assert tables["writers"].set_index("writer").loc["L0H1"].isna().all()
    assert pd.notna(tables["writers"].set_index("writer").loc["L0H0"]).all()


@pytest.fixture(scope="module")
def small_tables() -> dict[str, pd.DataFrame]:
    config, weights, _ = random_lean(seed=9, n_layers=2, n_heads=2)
    tokens = torch.randint(0, config.d_vocab, (2, 8), generator=torch.Generator().manual_seed(9))
    return oracle.scan_tables(config, weights, tokens)


@pytest.mark.parametrize(
    ("table", "column", "off_by", "passes"),
    [
        ("residual_projection", "median", 0.0039, True),
        ("residual_projection", "q87_5", 0.2, False),
        ("component_projection", "mean", 0.01, False),
        ("component_projection", "beta", 9e-6, True),
        ("component_projection", "beta", 1e-3, False),
        ("residual_projection", "beta_centred", 1e-3, False),
        ("component_projection", "n", 1, False),
        ("component_projection", "q25", math.nan, False),
        ("writers", "opposed", 1e-3, False),
        ("writers", "remaining_centred", math.nan, False),
    ],
)
def test_comparing_tables_sees_one_number_off(
    small_tables: dict[str, pd.DataFrame], table: str, column: str, off_by: float, passes: bool
) -> None:
    changed = {name: frame.copy() for name, frame in small_tables.items()}
    changed[table].loc[3, column] += off_by
    if passes:
        assert_tables_agree(changed, small_tables)
        return
    with pytest.raises(AssertionError, match=rf"{table}\.{column}: .*{small_tables[table].loc[3, 'writer']}"):
        assert_tables_agree(changed, small_tables)


def test_comparing_tables_sees_rows_and_labels(small_tables: dict[str, pd.DataFrame]) -> None:
    rows = small_tables["component_projection"]
    for wrong, message in ((rows.iloc[1:], "1 rows missing"), (rows.iloc[::-1], "not in component order")):
        with pytest.raises(AssertionError, match=message):
            assert_tables_agree(small_tables | {"component_projection": wrong}, small_tables)
    writers = small_tables["writers"].copy()
    median = rows[rows["writer"] == "embed"].set_index("component").loc["L1H0", "median"]
    assert abs(median + oracle.TAU) > 0.02, "the head should be clear of the threshold"
    listed = set(filter(None, writers.loc[0, "opposing"].split("+"))) ^ {"L1H0"}
    writers.loc[0, "opposing"] = "+".join(sorted(listed))
    with pytest.raises(AssertionError, match=r"L1H0.* is not near the threshold"):
        assert_tables_agree(small_tables | {"writers": writers}, small_tables)


def test_comparing_tables_leaves_heads_near_the_threshold_open(small_tables: dict[str, pd.DataFrame]) -> None:
    expected = {name: frame.copy() for name, frame in small_tables.items()}
    rows = expected["component_projection"]
    row = rows.index[(rows["writer"] == "embed") & (rows["component"] == "L1H0")][0]
    rows.loc[row, ["median", "q75"]] = [-0.0501, -0.03]
    expected["writers"].loc[0, "opposing"] = "L1H0"
    found = {name: frame.copy() for name, frame in expected.items()}
    found["writers"].loc[0, "opposing"] = ""
    assert_tables_agree(found, expected)
    rows.loc[row, "median"] = found["component_projection"].loc[row, "median"] = -0.06
    with pytest.raises(AssertionError, match="not near the threshold"):
        assert_tables_agree(found, expected)
