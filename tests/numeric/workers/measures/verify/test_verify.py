"""Verify against the literal oracle: every table, on models of every shape, however the work is split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.tokenizer import load_tokenizer
from erasure_sweep.workers.records import Target
from tests.support.models.random_models import random_lean
from tests.support.oracle.compare_verify import assert_verify_agrees
from tests.support.oracle.measuring import measure_verify
from tests.support.oracle.verify import verify_tables
from tests.support.oracle.verify_adversarial import token_rows
from tests.support.oracle.verify_setting import arrange
from tests.support.oracle.verify_trust import scan_means
from tests.support.paths import ROOT

TOKENIZER = ROOT / "workers" / "models" / "bundled" / "tokenizer" / "tokenizer.json"

SHAPES: dict[str, dict[str, Any]] = {
    "gelu": {"n_layers": 3, "n_heads": 2, "d_model": 24},
    "gpt2": {"n_layers": 3, "n_heads": 2, "d_model": 20, "d_head": 6, "act_fn": "gelu_new"},
    "attention only": {"n_layers": 3, "n_heads": 3, "d_model": 24, "attn_only": True},
    "wide heads": {"n_layers": 3, "n_heads": 2, "d_model": 18, "d_head": 11},
    "solu": {"n_layers": 3, "n_heads": 2, "d_model": 24, "act_fn": "solu_ln"},
}
IN_EVERY_RUN = ("gelu", "attention only")
GIVEN = ((3, 1, 4, 1, 5, 9, 2), (11,), tuple(range(20)))


def draw(config: ModelConfig, shape: tuple[int, int] = (7, 23), seed: int = 61) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def undo_what_is_read(weights: dict[str, torch.Tensor]) -> None:
    """Make the last layer's first head write against whatever it reads, so that a random model has erasers."""
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][-1, 0].T


def some_targets(config: ModelConfig) -> tuple[Target, ...]:
    """Writers of every kind; erasers in one layer and in two; one writer with two targets."""
    last = config.n_layers - 1
    both = (f"L{last}H0", f"L{last}H1")
    over_layers = (*(f"L1H{h}" for h in range(config.n_heads)), f"L{last}H0")
    targets = [
        Target("L0H1", ("L1H0", f"L{last}H0"), "named"),
        Target("L0H1", both, "rule"),
        Target("embed", over_layers, "all"),
        Target("pos_embed", ("L0H0", "L0H1"), "named"),
        Target("L1H0", both, "rule"),
    ]
    return (*targets, *(() if config.attn_only else (Target("MLP0", both, "rule"),)))


@pytest.mark.parametrize(
    ("kind", "first_position"),
    [
        *(pytest.param(kind, False, marks=[pytest.mark.nightly] * (kind not in IN_EVERY_RUN)) for kind in SHAPES),
        ("gelu", True),
        *(pytest.param(kind, True, marks=pytest.mark.nightly) for kind in SHAPES if kind != "gelu"),
    ],
)
def test_every_table_agrees_with_the_oracle(kind: str, first_position: bool) -> None:
    config, weights, _ = random_lean(list(SHAPES).index(kind), **SHAPES[kind])
    undo_what_is_read(weights)
    tokens, targets = draw(config), some_targets(config)
    told: dict[str, Any] = {"block": 3, "given": GIVEN, "seed": 5, "first_position": first_position}
    oracle = verify_tables(config, weights, tokens, targets, **told)
    assert_verify_agrees(measure_verify(LeanModel(config, weights), tokens, targets, **told), oracle)
    assert len(set(oracle["eraser_group"]["verdict"].dropna())) > 1
    assert not first_position or len(set(oracle["dla_trust"]["trust"])) > 1


@pytest.mark.parametrize("kind", ["gpt2", "attention only"])
def test_measured_positions_are_those_of_the_prompts_in_the_corpus(kind: str) -> None:
    config, weights, model = random_lean(20 + list(SHAPES).index(kind), **SHAPES[kind])
    tokens, targets = draw(config, (10, 36)), some_targets(config)
    told: dict[str, Any] = {"block": 4, "seed": 2, "first_prompt": 3, "trust_prompts": 6, "places": 3}
    told |= {"donors": (0, 1, 2, 5, 9), "held_out": False, "tau": 0.01}
    oracle = verify_tables(config, weights, tokens, targets, 11, **told)
    fast = measure_verify(model, tokens, targets, 11, **told)
    assert_verify_agrees(fast, oracle, tau=0.01)
    assert set(fast["eraser_group"]["n"]) == {7 * 11}
    assert set(fast["dla_trust"]["n"]) == {6 * 11}
    assert set(fast["dla_points"]["prompt"]) == set(range(3, 10))


@pytest.mark.parametrize(
    "split",
    [
        {"block": 2, "batch": 1, "writers": 1},
        {"block": 5, "batch": 3, "writers": 4, "donor_block": 3},  # two blocks, the second of six prompts
        {"block": 50, "batch": 4, "donor_block": 1},  # one block: intervals are over its prompts
    ],
)
def test_however_the_work_is_split_the_numbers_are_the_oracles(split: dict[str, int]) -> None:
    config, weights, model = random_lean(31, n_layers=3, n_heads=2, d_model=16)
    tokens, targets = draw(config, (11, 13)), some_targets(config)[:2]
    told: dict[str, Any] = {"given": GIVEN[:1], "seed": -4, "places": 9}
    oracle = verify_tables(config, weights, tokens, targets, 8, block=split["block"], **told)
    fast = measure_verify(model, tokens, targets, 8, **split, **told)
    assert_verify_agrees(fast, oracle)
    assert fast["eraser_group"]["beta_low"].notna().all()
    groups = fast["eraser_group"][fast["eraser_group"]["eraser"].isin([target.label for target in targets])]
    assert groups["verdict"].notna().all()
    assert fast["dla_trust"]["trust"].notna().all()


def test_float64_agrees_far_better() -> None:
    config, weights, model = random_lean(32, n_layers=3, n_heads=2, d_model=16, dtype=torch.float64)
    tokens, targets = draw(config, (5, 17)), some_targets(config)[:4]
    oracle = verify_tables(config, weights, tokens, targets, 9, block=2)
    assert_verify_agrees(measure_verify(model, tokens, targets, 9, block=2), oracle, tolerance=1e-8)


def test_large_constant_parts_leave_every_number_intact() -> None:
    config, weights, _ = random_lean(40, n_layers=3, n_heads=2, d_model=16)
    constant = torch.randn(config.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    constant -= constant.mean()
    for name in ("W_E", "b_out"):
        weights[name] = weights[name] + 20.0 * constant / constant.norm()
    tokens, targets = draw(config, (6, 23)), some_targets(config)[1:4]
    oracle = verify_tables(config, weights, tokens, targets, block=3)
    assert_verify_agrees(measure_verify(LeanModel(config, weights), tokens, targets, block=3), oracle)


def test_of_many_tokens_a_thousand_are_kept() -> None:
    config, weights, model = random_lean(33, n_layers=2, n_heads=1, d_model=8)
    tokens, targets = draw(config, (24, 60)), (Target("L0H0", ("L1H0",), "rule"),)
    told: dict[str, Any] = {"block": 12, "seed": 8, "places": 0, "trust_prompts": 2}
    oracle = verify_tables(config, weights, tokens, targets, **told)
    fast = measure_verify(model, tokens, targets, **told)
    points = fast["dla_points"].groupby("effect").size()
    assert points["full"] == 1000 and 300 < points["without_pattern"] < 700
    assert_verify_agrees(fast, oracle)
    assert list(fast["ablation_loss"]["n"]) == 2 * [24 * 59]


def test_of_many_positions_the_loss_is_measured_at_128() -> None:
    config, weights, model = random_lean(34, n_layers=2, n_heads=1, d_model=8, n_ctx=160)
    tokens, targets = draw(config, (4, 150)), (Target("L0H0", ("L1H0",), "rule"),)
    told: dict[str, Any] = {"block": 2, "seed": 8, "places": 1}
    oracle = verify_tables(config, weights, tokens, targets, **told)
    fast = measure_verify(model, tokens, targets, **told)
    assert list(fast["ablation_loss"]["n"]) == 2 * [4 * 128]
    assert_verify_agrees(fast, oracle)


def test_of_long_prompts_the_last_128_tokens_are_told_of() -> None:
    config, weights, _ = random_lean(41, n_layers=3, n_heads=2, d_model=12, n_ctx=160)
    undo_what_is_read(weights)
    tokens, targets = draw(config, (4, 150)), (Target("L0H1", ("L2H0",), "rule"), Target("embed", ("L1H0",), "rule"))
    given = (tuple(tokens[0].tolist()), tuple(tokens[1, :3].tolist()))
    told: dict[str, Any] = {"block": 2, "places": 2, "given": given, "donors": (1,)}
    fast = measure_verify(LeanModel(config, weights), tokens, targets, **told)["adversarial_tokens"]
    assert_tokens_agree(fast, config, weights, tokens, targets, told)
    of_given = fast[fast["source"] == "given"].groupby(["writer", "prompt"], sort=False)["position"]
    assert [list(positions) for _, positions in of_given] == 2 * [list(range(22, 150)), [0, 1, 2]]
    ends = fast.groupby(["writer", "source", "prompt", "place"]).tail(1)
    assert list(ends["position"]) == list(ends["place"])
    assert ends.groupby(["writer", "source"]).size().to_dict() == {
        **{("L0H1", "given"): 2, ("L0H1", "found"): 2, ("embed", "given"): 2, ("embed", "found"): 1}
    }
    assert fast["prompt"].dtype == fast["position"].dtype == fast["token_id"].dtype == np.int64


def assert_tokens_agree(
    fast: pd.DataFrame,
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    tokens: np.ndarray,
    targets: tuple[Target, ...],
    told: dict[str, Any],
) -> None:
    """The attributions token by token are the oracle's, rows in its order."""
    s = arrange(config, weights, tokens, None, block=told["block"], seed=0, first_prompt=0)
    writers = dict.fromkeys(target.writer for target in targets)
    means = dict(zip(s.stream.terms, scan_means(s), strict=True))
    oracle = pd.DataFrame(token_rows(s, list(writers), told["places"], told["given"], means))
    keys = ["writer", "source", "half", "prompt", "place", "position", "token_id"]
    pd.testing.assert_frame_equal(fast[keys], oracle[keys])
    assert (oracle["dla"] - oracle["net_dla"]).abs().mean() > 0.01
    for name in ("dla", "net_dla", "total"):
        np.testing.assert_allclose(fast[name], oracle[name], rtol=1e-4, atol=1e-4)


def test_attributions_of_tokens_are_those_of_other_tables() -> None:
    """Where every prompt is given whole they average to those of trust, and each ends in those of its place."""
    config, _, model = random_lean(42, n_layers=3, n_heads=2, d_model=16)
    tokens = draw(config, (5, 19))
    tables = measure_verify(
        model, tokens, (Target("L0H1", ("L1H0",), "rule"),), given=tuple(map(tuple, tokens.tolist()))
    )
    rows, trust = tables["adversarial_tokens"], tables["dla_trust"].set_index("writer").loc["L0H1"]
    given = rows[rows["source"] == "given"]
    assert given["dla"].abs().mean() == pytest.approx(trust["dla_mean_abs"], rel=1e-5)
    assert given["total"].abs().mean() == pytest.approx(trust["effect_mean_abs"], rel=1e-5)
    tested = tables["adversarial"].query("role == 'writer' and inputs == 'last'")
    last = rows[rows["position"] == rows["place"]]
    np.testing.assert_allclose(last[["dla", "total"]], tested[["clean", "total"]], rtol=1e-4)


def test_attributions_of_tokens_are_the_same_to_the_bit_however_the_work_is_split() -> None:
    config, _, model = random_lean(43, n_layers=3, n_heads=2, d_model=16)
    tokens, targets = draw(config, (9, 31)), some_targets(config)
    told: dict[str, Any] = {"given": GIVEN, "places": 3}
    whole = measure_verify(model, tokens, targets, block=9, **told)["adversarial_tokens"]
    for split in ({"batch": 1, "donor_block": 2}, {"batch": 5, "donor_block": 4, "writers": 1}):
        pd.testing.assert_frame_equal(
            measure_verify(model, tokens, targets, block=9, **split, **told)["adversarial_tokens"],
            whole,
            check_exact=True,
        )


def test_writers_and_erasers_without_output() -> None:
    """Nothing is divided by what is zero: such numbers are null, on both sides alike."""
    config, weights, _ = random_lean(35, n_layers=3, n_heads=2, d_model=16)
    weights["W_O"][0, 0] = 0.0
    weights["W_V"][2, 1] = 0.0
    weights["W_pos"][:] = 0.0
    weights["W_E"][:40] = 0.0
    tokens = draw(config, (6, 20))
    targets = tuple(Target(w, e, "named") for w, e in (("L0H0", ("L1H0",)), ("L0H1", ("L2H1",)), ("embed", ("L1H0",))))
    oracle = verify_tables(config, weights, tokens, targets, block=3)
    fast = measure_verify(LeanModel(config, weights), tokens, targets, block=3)
    assert_verify_agrees(fast, oracle)
    group = fast["eraser_group"].set_index("writer")
    assert group.loc["L0H0", "n"] == 0 and pd.isna(group.loc["L0H0", ["beta", "clean_median", "verdict"]]).all()
    assert group.loc["L0H1", "beta"] == 0.0
    assert group.loc["embed", "n"] == int((tokens >= 40).sum())
    trust = fast["dla_trust"].set_index("writer")
    assert trust.loc[["pos_embed", "L0H0"], "trust"].isna().all()


def test_prompts_of_two_tokens() -> None:
    config, weights, model = random_lean(36, n_layers=2, n_heads=2, d_model=16)
    tokens, targets = draw(config, (5, 2)), (Target("L0H1", ("L1H0", "L1H1"), "rule"),)
    oracle = verify_tables(config, weights, tokens, targets, block=2)
    assert_verify_agrees(measure_verify(model, tokens, targets, block=2), oracle)


def test_one_measured_position() -> None:
    config, weights, model = random_lean(37, n_layers=2, n_heads=2, d_model=16)
    tokens, targets = draw(config, (5, 9)), (Target("embed", ("L0H0", "L1H1"), "rule"),)
    oracle = verify_tables(config, weights, tokens, targets, 1, block=2, seed=1)
    assert_verify_agrees(measure_verify(model, tokens, targets, 1, block=2, seed=1), oracle)
    assert set(oracle["position_profile"]["n"]) >= {0}


def test_tokens_have_their_texts_where_there_is_a_tokenizer() -> None:
    tokenizer = load_tokenizer(str(TOKENIZER))
    config, _, model = random_lean(38, n_layers=2, n_heads=2, d_model=8, d_vocab=tokenizer.n_ids)
    given = (tokenizer.bos_id, *tokenizer.encode_batch(["def main(self):"])[0])
    tables = measure_verify(
        model, draw(config, (4, 12)), (Target("L0H1", ("L1H0",), "rule"),), given=(given,), tokenizer=str(TOKENIZER)
    )
    aligned, rows = tables["aligned_tokens"], tables["adversarial"]
    assert list(aligned["token"]) == tokenizer.token_strings(list(aligned["token_id"]))
    assert list(rows["top"]) == tokenizer.token_strings(list(rows["top_id"]))
    assert list(rows["second"]) == tokenizer.token_strings(list(rows["second_id"]))
    assert set(rows.query("source == 'given'")["text"]) == {"def main(self):"}
    by_token = tables["adversarial_tokens"]
    assert list(by_token["token"]) == tokenizer.token_strings(list(by_token["token_id"]))
    assert "".join(by_token[by_token["source"] == "given"]["token"].iloc[1:]) == "def main(self):"


def test_a_group_of_all_later_heads_is_named_later() -> None:
    """Also where there is one such head alone: it has its own row, and the group has one with the verdict."""
    config, weights, model = random_lean(39, n_layers=2, n_heads=1, d_model=8)
    tokens, targets = draw(config, (4, 9)), (Target("L0H0", ("L1H0",), "all"),)
    fast = measure_verify(model, tokens, targets, block=2)
    assert list(fast["eraser_group"]["eraser"]) == ["L1H0", "later"]
    assert_verify_agrees(fast, verify_tables(config, weights, tokens, targets, block=2))
