"""Which erasers are significant: the test over shards, the rule over all pairs, both against the oracle, and plants."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats

from erasure_sweep.workers.measures.measure import Block
from erasure_sweep.workers.measures.scan.significance import LEVEL, ShardSpread, discoveries, half_width, p_below
from erasure_sweep.workers.measures.scan.v_composition import VComposition
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Group, ScanOptions, ScanWork, WriterBlock
from tests.support.models.planted import plant_several
from tests.support.models.random_models import random_lean
from tests.support.oracle import dla as oracle_dla
from tests.support.oracle import scan as oracle
from tests.support.oracle import v_composition as reading_oracle
from tests.support.oracle.compare_tables import assert_reading_agrees
from tests.support.oracle.measuring import measure_shard, measure_tables
from tests.support.oracle.v_composition import reading_tables
from tests.support.tiers import seeds

SMALL = {"n_layers": 3, "n_heads": 2, "d_model": 24}


def draw(config: ModelConfig, shape: tuple[int, int], seed: int = 61) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.d_vocab, shape)


def with_eraser(seed: int) -> tuple[ModelConfig, dict[str, torch.Tensor], LeanModel]:
    """A random model in which the last layer's first head writes against whatever it reads, in float64."""
    config, weights, _ = random_lean(seed, **SMALL)
    weights["W_O"][-1, 0] = -3.0 * weights["W_V"][-1, 0].T
    return config, weights, LeanModel(config, weights, dtype=torch.float64)


def spread_of(shards: np.ndarray) -> ShardSpread:
    """The spread of values [shard, row]."""
    spread = ShardSpread.empty(shards.shape[1])
    for values in shards:
        spread = spread.with_shard(values)
    return spread


def test_spread_is_mean_and_squared_deviations() -> None:
    shards = np.random.default_rng(0).normal(3.0, 1e-3, (7, 4))
    shards[2:5, 1], shards[:, 2], shards[1:, 3] = math.nan, math.nan, math.nan
    spread = spread_of(shards)
    assert spread.n.tolist() == [7, 4, 0, 1]
    some = shards[:, 1][~np.isnan(shards[:, 1])]
    np.testing.assert_allclose(spread.mean, [shards[:, 0].mean(), some.mean(), 0.0, shards[0, 3]], rtol=1e-14)
    np.testing.assert_allclose(
        spread.squares, [7 * shards[:, 0].var(), 4 * some.var(), 0.0, 0.0], rtol=1e-9, atol=1e-20
    )


def test_p_values_by_hand() -> None:
    # Two shards have one degree of freedom, Cauchy's distribution: p = 1/2 + arctan(t)/π. Mean −0.2, error 0.1.
    columns = [[-0.1, -0.3], [0.05, -0.15], [0.1, 0.3], [-0.5, -0.5], [-0.05, -0.05], [0.5, 0.5], [-0.5, math.nan]]
    p = p_below(spread_of(np.array(columns).T), -0.05)
    expected = [0.5 + math.atan(-1.5) / math.pi, 0.5, 0.5 + math.atan(2.5) / math.pi, *[math.nan] * 4]
    np.testing.assert_allclose(p, expected, atol=1e-14)
    assert np.isnan(p_below(ShardSpread.empty(2), -0.05)).all()


def test_p_values_are_those_of_the_t_test() -> None:
    shards = np.random.default_rng(1).normal(-0.1, 0.2, (9, 50))
    expected = stats.ttest_1samp(shards, -0.05, alternative="less").pvalue
    np.testing.assert_allclose(p_below(spread_of(shards), -0.05), expected, rtol=1e-10)


def test_intervals_are_those_of_the_t_distribution() -> None:
    shards = np.random.default_rng(4).normal(-0.1, 0.2, (9, 50))
    low, high = stats.t.interval(0.95, 8, shards.mean(axis=0), stats.sem(shards))
    np.testing.assert_allclose(half_width(spread_of(shards)), (high - low) / 2, rtol=1e-10)
    nothing = np.array([[0.3, 0.3, 0.3], [0.3, math.nan, math.nan], [math.nan, math.nan, math.nan]]).T
    assert np.isnan(half_width(spread_of(nothing))).all()


def test_discoveries_by_hand() -> None:
    # Of five tests the k-th smallest may reach 0.01·k: 0.011 and 0.039 are let in by 0.04 behind them, 0.051 is not.
    p = np.array([0.04, 0.051, 0.011, 0.9, 0.001, 0.039, math.nan, 0.0])
    tested = np.array([True, True, True, False, True, True, True, False])
    assert discoveries(p, tested, "bh").tolist() == [True, False, True, None, True, True, None, None]
    # Under any dependence by 1 + 1/2 + 1/3 + 1/4 + 1/5 = 2.283 less: the smallest may reach 0.0044, the next 0.0088.
    assert discoveries(p, tested, "by").tolist() == [False, False, False, None, True, False, None, None]
    for method, any_dependence in (("bh", False), ("by", True)):
        expected = reading_oracle.significant(np.where(tested, p, math.nan).tolist(), any_dependence)
        assert discoveries(p, tested, method).tolist() == expected
        assert discoveries(np.array([0.06, 0.03]), np.array([True, True]), method).tolist() == [False, False]
        assert discoveries(p, np.zeros(8, dtype=bool), method).tolist() == [None] * 8
        assert discoveries(np.empty(0), np.empty(0, dtype=bool), method).tolist() == []


def test_false_discoveries_are_held_at_the_level() -> None:
    """1,000 families of 40 heads, ten of which erase: of those found, about 5 % · 30/40 are false."""
    rng, shares, found = np.random.default_rng(2), [], 0
    mean = np.where(np.arange(40) < 10, -0.3, -0.05)
    for _ in range(1000):
        p = p_below(spread_of(rng.normal(mean, 0.1, (6, 40))), -0.05)
        significant = discoveries(p, np.ones(40, dtype=bool), "bh").astype(bool)
        shares.append(significant[10:].sum() / max(1, significant.sum()))
        found += significant[:10].sum()
    assert np.mean(shares) == pytest.approx(0.0375, abs=0.008)
    assert found / 10_000 > 0.8


def hand_made() -> reading_oracle.Reading:
    """Three shards, the writer silent in the last."""
    writer = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    base = np.tile([0.0, 1.0], (4, 1))
    states, last_term = (
        {"resid_pre0": base, "resid_post0": base + writer},
        {"resid_pre0": "embed", "resid_post0": "L0H0"},
    )
    terms = {"embed": base, "L0H0": writer}
    to_logits = oracle_dla.Readout(np.ones(4), np.tile([1.0, -1.0], (4, 1)))
    shards = [np.array([0, 1]), np.array([2]), np.array([3])]
    return reading_oracle.Reading(oracle.Measured(terms, terms, states, last_term), {}, {}, to_logits, shards)


def test_coefficients_of_shards_by_hand() -> None:
    part = np.array([[-1.0, 5.0], [0.0, 5.0], [-1.5, 5.0], [7.0, 7.0]])
    betas = reading_oracle.shard_coefficients(hand_made(), "L0H0", part)
    assert betas == pytest.approx([-0.2, -0.5])
    found = reading_oracle.t_test(betas, 0.05)
    assert (found["shards"], found["shard_mean"], found["shard_error"]) == (
        2,
        pytest.approx(-0.35),
        pytest.approx(0.15),
    )
    assert found["p"] == pytest.approx(0.5 + math.atan(-2.0) / math.pi)
    for alike in ([-0.2, -0.2], [-0.2]):
        assert math.isnan(reading_oracle.t_test(alike, 0.05)["p"])


def test_intervals_by_hand() -> None:
    # Two groups have one degree of freedom: t = tan(0.475 π). The halves have slopes 2 and 1, so the jackknife's error is
    # 1/2, and r = 1 in both: that they are alike says nothing of how far off r is.
    x, y = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 2.0])
    found = oracle_dla.intervals(x, y, [np.array([0, 1]), np.array([2, 3])])
    reach = math.tan(0.475 * math.pi) / 2
    assert (found["slope_low"], found["slope_high"]) == pytest.approx((1.5 - reach, 1.5 + reach))
    assert math.isnan(found["low"]) and math.isnan(found["high"])
    assert all(math.isnan(value) for value in oracle_dla.intervals(x, y, [np.arange(4)]).values())
    dealt = [np.array([token]) for token in range(17)]
    line = np.arange(17.0)
    noisy = line + np.sin(line)
    merged = [np.array([0, 16]), *dealt[1:16]]
    expected = oracle_dla.intervals(line, noisy, merged)
    assert oracle_dla.intervals(line, noisy, dealt) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("prompts", "block"), [(6, 1), (7, 2), (18, 1)])
def test_tests_and_intervals_are_the_oracles(prompts: int, block: int) -> None:
    config, weights, model = with_eraser(91)
    tokens = draw(config, (prompts, 7))
    fast = measure_tables(model, tokens, block=block)
    exact = reading_tables(config, weights, tokens, block=block)
    assert_reading_agrees(fast, exact, spearman=True)
    np.testing.assert_allclose(fast["v_composition"]["p"], exact["v_composition"]["p"], rtol=1e-6, atol=1e-12)
    assert fast["v_composition"]["significant"].tolist() == exact["v_composition"]["significant"].tolist()
    assert fast["writers"]["significant_erasers"].equals(exact["writers"]["significant_erasers"].astype(float))
    assert 0 < fast["writers"]["significant_erasers"].sum() < fast["v_composition"]["significant"].count()
    assert fast["v_composition"]["p"].between(0.001, 0.999).mean() > 0.1, "p-values should not all be trivial"
    for name in oracle_dla.INTERVALS:
        found, wanted = (tables["dla_correlation"][name] for tables in (fast, exact))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_writer_may_be_silent_in_some_shards() -> None:
    config, weights, _ = random_lean(92, **SMALL)
    weights["W_E"][:40] = 0.0
    tokens = draw(config, (5, 9))
    tokens[:3] %= 40
    tokens[3:, 0] = 40
    fast = measure_tables(LeanModel(config, weights), tokens, block=1)
    exact = reading_tables(config, weights, tokens, block=1)
    assert_reading_agrees(fast, exact)
    shards = exact["v_composition"].groupby("writer", sort=False)["shards"].first()
    assert (shards["embed"], shards["L0H0"]) == (2, 5)
    tokens[3] %= 40
    alone = measure_tables(LeanModel(config, weights), tokens, block=1)
    assert alone["v_composition"].set_index("writer").loc["embed", "p"].isna().all()
    assert alone["writers"].set_index("writer")["significant_erasers"].isna().to_dict()["embed"]


def test_one_shard_tests_nothing() -> None:
    config, _, model = random_lean(93, **SMALL)
    tables = measure_tables(model, draw(config, (4, 9)), block=4)
    assert tables["v_composition"]["beta"].notna().all()
    none = ["p", "significant", "significant_by", "beta_low", "beta_high"]
    assert tables["v_composition"][none].isna().all(axis=None)
    assert tables["writers"]["significant_erasers"].isna().all()
    assert tables["dla_correlation"][list(oracle_dla.INTERVALS)].isna().all(axis=None)


@pytest.mark.parametrize("split", [{"batch": 1}, {"writers": 1}, {"writers": 3}])
def test_however_writers_are_split_all_pairs_are_one_family(split: dict[str, int]) -> None:
    config, _, model = with_eraser(91)
    tokens = draw(config, (6, 9))
    whole, parts = (measure_tables(model, tokens, block=1, **kwargs) for kwargs in ({}, split))
    np.testing.assert_allclose(parts["v_composition"]["p"], whole["v_composition"]["p"], rtol=1e-6, atol=1e-12)
    assert parts["v_composition"]["significant"].equals(whole["v_composition"]["significant"])
    assert parts["writers"]["significant_erasers"].equals(whole["writers"]["significant_erasers"])
    assert whole["writers"]["significant_erasers"].sum() > 0


def test_what_is_kept_does_not_grow_with_the_shards() -> None:
    config, _, model = random_lean(94, **SMALL)
    span, options = WriterBlock(0, len(config.layout.writers)), ScanOptions()
    shards = [
        measure_shard(model, span, tokens[None], None, 1, prompt, options)["v_composition"]
        for prompt, tokens in enumerate(draw(config, (5, 9)))
    ]
    few, many = (VComposition().merge(Block(model, ScanWork(span, options)), iter(shards * n)) for n in (1, 3))
    assert {name: array.shape for name, array in few.items()} == {name: array.shape for name, array in many.items()}
    assert set(few["shard_n"]) == {5} and set(many["shard_n"]) == {15}


def test_a_group_of_one_head_is_not_tested_twice() -> None:
    garden = plant_several(3, n_plants=2)
    writer, eraser = garden.plants[0].writer, garden.plants[0].eraser
    model, tokens = LeanModel(garden.config, garden.weights), draw(garden.config, (6, 16))
    plain = measure_tables(model, tokens, block=1)
    grouped = measure_tables(model, tokens, block=1, groups=(Group(writer, (eraser,)),))
    rows = grouped["v_composition"].query("writer == @writer and eraser == @eraser")
    assert rows["significant"].tolist() == [True, None]
    assert rows["p"].nunique() == 1
    for column in ("erasers", "significant_erasers"):
        assert grouped["writers"][column].equals(plain["writers"][column])


@pytest.mark.parametrize("seed", seeds(2, nightly=6))
@pytest.mark.parametrize("block", [1, 2])
def test_planted_erasers_are_significant_and_nothing_else(seed: int, block: int) -> None:
    garden = plant_several(seed, n_plants=1 + seed % 3, attn_only=seed % 4 == 1)
    tables = measure_tables(LeanModel(garden.config, garden.weights), draw(garden.config, (8, 16)), block=block)
    rows = tables["v_composition"]
    found = rows[rows["significant"] == True]  # noqa: E712 — nulls are no discoveries
    planted = {(plant.writer, plant.eraser) for plant in garden.plants}
    assert set(zip(found["writer"], found["eraser"], strict=True)) == planted
    counts = tables["writers"].set_index("writer")["significant_erasers"]
    last = f"L{garden.config.n_layers - 1}H0"
    assert math.isnan(counts[last]), "nothing reads the last layer"
    assert counts.dropna().to_dict() == {w: float(w in dict(planted)) for w in counts.dropna().index}


@pytest.mark.parametrize("seed", seeds(1, nightly=4))
@pytest.mark.parametrize("attn_only", [False, True])
def test_in_quiet_models_nothing_is_significant(seed: int, attn_only: bool) -> None:
    garden = plant_several(seed, n_plants=0, attn_only=attn_only)
    tables = measure_tables(LeanModel(garden.config, garden.weights), draw(garden.config, (8, 16)), block=1)
    tested = tables["v_composition"]["significant"].dropna()
    single = tables["v_composition"]["eraser"].str.contains("H")
    assert len(tested) == single.sum() > 70
    assert not tested.astype(bool).any()
    assert set(tables["writers"]["significant_erasers"].dropna()) == {0.0}


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("v_composition", "p", 0.5, r"v_composition\.p: 1 rows off, first embed L0H1"),
        ("v_composition", "p", math.nan, r"v_composition\.p: 1 rows null on one side alone, first embed L0H1"),
        ("v_composition", "significant", "turned", r"v_composition\.significant of embed L0H1"),
        ("v_composition", "significant_by", "turned", r"v_composition\.significant_by of embed L0H1"),
        ("v_composition", "beta_low", 99.0, r"v_composition\.beta_low"),
        ("v_composition", "significant", None, r"v_composition\.significant of embed L0H1"),
        ("writers", "significant_erasers", 99.0, r"writers\.significant_erasers of pos_embed"),
        ("dla_correlation", "slope_low", 99.0, r"dla_correlation\.slope_low"),
        ("dla_correlation", "high", math.nan, r"dla_correlation\.high"),
        ("dla_correlation", "stage", "verify", r"dla_correlation\.stage"),
    ],
)
def test_comparing_tables_sees_what_is_off(table: str, column: str, value: object, message: str) -> None:
    config, weights, _ = random_lean(95, n_layers=2, n_heads=2)
    expected = reading_tables(config, weights, draw(config, (3, 8)), block=1)
    changed = {name: frame.copy() for name, frame in expected.items()}
    assert_reading_agrees(changed, expected)
    changed[table].loc[1, column] = not changed[table].loc[1, column] if value == "turned" else value
    with pytest.raises(AssertionError, match=message):
        assert_reading_agrees(changed, expected)


@pytest.mark.parametrize("method", ["bh", "by"])
@pytest.mark.parametrize("n", [1, 2, 9, 400])
def test_rates_of_false_discoveries_are_scipys(n: int, method: Literal["bh", "by"]) -> None:
    """Whose module of statistics is not imported for them; some p-values are equal."""
    p = np.random.default_rng(n).uniform(size=n) ** 3
    p[: n // 3] = p[: n // 3].round(2)
    expected = stats.false_discovery_control(p, method=method) <= LEVEL
    assert discoveries(p, np.ones(n, dtype=bool), method).tolist() == expected.tolist()


def test_what_measures_import_is_not_scipys_module_of_statistics() -> None:
    """It takes two seconds in every process."""
    script = (
        "import sys; from erasure_sweep.workers.measures.registry import measures; measures('scan'); measures('group')"
    )
    done = subprocess.run([sys.executable, "-c", f"{script}; sys.exit('scipy.stats' in sys.modules)"], check=False)
    assert done.returncode == 0
