"""Verify's groups, nulls and verdicts on planted models: erasure that is shared out, of everything, of siblings, and none."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.verify.group_rule import group_of_shares
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Target
from tests.support.models.planted import plant_several
from tests.support.models.planted_groups import PlantedGroup, plant_broad, plant_distributed, plant_shrinking
from tests.support.models.random_models import random_lean
from tests.support.oracle.measuring import measure_verify
from tests.support.oracle.verify_nulls import group_of, later_heads, shares_of
from tests.support.oracle.verify_setting import arrange
from tests.support.tiers import seeds


def measure(planted: PlantedGroup, n_prompts: int = 12, tau: float = 0.05) -> dict[str, pd.DataFrame]:
    """Tables of verify on the second half of some prompts, with the groups that the rule finds on the first half."""
    config, half = planted.config, n_prompts // 2
    tokens = np.random.default_rng(71).integers(0, config.d_vocab, (n_prompts, config.n_ctx))
    scanned = arrange(config, planted.weights, tokens[:half], None, block=3, seed=1, first_prompt=0)
    targets = []
    for writer in planted.writers:
        shares = shares_of(scanned, scanned.term(writer), later_heads(scanned, writer))
        group = group_of_shares(config.layout, shares)
        assert group == group_of(scanned, writer)
        targets.append(Target(writer, group, "rule") if group else Target(writer, tuple(shares), "all"))
    told = {"block": 3, "batch": 3, "places": 0, "seed": 1, "trust_prompts": 2, "tau": tau, "placebos": 20}
    spans = {"first_prompt": half, "scanned_prompts": half}
    return measure_verify(LeanModel(config, planted.weights), tokens, tuple(targets), **told, **spans)


def of_groups(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of whole groups, by writer."""
    rows = tables["eraser_group"]
    return rows[rows["verdict"].notna()].set_index("writer")


def betas(tables: dict[str, pd.DataFrame], writer: str, null: str) -> pd.Series:
    rows = tables["nulls"].query("of == 'v_composed'")
    return rows[(rows["writer"] == writer) & (rows["null"] == null)]["beta"]


def test_erasure_that_many_weak_heads_share_out_is_found() -> None:
    """Sixteen heads of 4.5 % take out half of the writer; none is an eraser by itself, and nothing was found."""
    planted = plant_distributed(1)
    tables = measure(planted)
    row, group = of_groups(tables).loc["L0H0"], of_groups(tables).loc["L0H0", "group"].split("+")
    assert row["verdict"] == "erased"
    assert 13 <= len(group) <= 15 and set(group) <= set(planted.erasers)  # until nine tenths of the shares
    in_layers = Counter(layer_of(head) for head in group)  # side by side in a layer, in series over layers
    left = math.prod(1.0 - 0.045 * n_heads for n_heads in in_layers.values())
    assert row["beta"] == pytest.approx(left - 1.0, abs=2e-3)
    heads = tables["eraser_group"].query("eraser in @group")
    assert heads["v_composed_median"].min() > -0.05
    assert betas(tables, "L0H0", "placebo").min() > -0.1


def test_a_layer_that_shrinks_everything_is_no_eraser_of_anything() -> None:
    tables = measure(plant_shrinking(2))
    rows = of_groups(tables)
    assert list(rows["verdict"]) == 3 * ["shrinks everything"]
    for writer, beta in rows["beta"].items():
        assert beta == pytest.approx(-0.38, abs=0.03)
        np.testing.assert_allclose(betas(tables, str(writer), "placebo"), -0.37, atol=0.04)


def test_a_broad_eraser_of_siblings_leaves_random_directions_alone() -> None:
    tables = measure(plant_broad(3))
    rows = of_groups(tables)
    assert list(rows["verdict"]) == 3 * ["erased, with its siblings"]
    np.testing.assert_allclose(rows["beta"].astype(float), -0.8, atol=5e-3)
    for writer in rows.index:
        np.testing.assert_allclose(betas(tables, writer, "siblings"), -0.8, atol=5e-3)
        assert -0.2 < betas(tables, writer, "placebo").median() < 0.0


@pytest.mark.parametrize("attn_only", [False, True])
def test_where_nothing_is_planted_nothing_is_found(attn_only: bool) -> None:
    garden = plant_several(58, n_plants=0, attn_only=attn_only)
    tables = measure(PlantedGroup(garden.config, garden.weights, ("L0H1", "L1H2", "embed"), ()))
    assert list(of_groups(tables)["verdict"]) == 3 * ["not found"]


@pytest.mark.parametrize("seed", seeds(1, nightly=24))
def test_on_random_models_a_writer_is_no_more_erased_than_its_placebos(seed: int) -> None:
    """Of 24 such models and 141 writers one was `erased` (0.7 %), and 7 were below all of 20 placebos (1 in 21 is expected)."""
    config, weights, _ = random_lean(300 + seed, n_layers=3, n_heads=4, d_model=32, n_ctx=16)
    writers = ("L0H0", "L0H1", "L0H2", "L0H3", "MLP0", "L1H1")
    tables = measure(PlantedGroup(config, weights, writers, ()), n_prompts=24)
    rows = of_groups(tables)
    below = [rows.loc[writer, "beta"] < betas(tables, writer, "placebo").min() for writer in writers]
    assert sum(below) <= 2
    assert (rows["verdict"].str.startswith("erased")).sum() <= 1


def test_placebos_depend_on_seed_writer_and_draw_alone() -> None:
    """However prompts are split into shards and batches, groups and β are the same but for rounding."""
    config, _, model = random_lean(91, n_layers=3, n_heads=3, d_model=24)
    tokens = np.random.default_rng(3).integers(0, config.d_vocab, (9, 14))
    targets = (Target("L0H1", ("L1H0", "L2H2"), "named"), Target("embed", ("L0H0",), "named"))
    told = {"places": 0, "first_prompt": 4, "trust_prompts": 2, "seed": 6}
    one = measure_verify(model, tokens, targets, 9, block=5, batch=4, **told)["nulls"]
    other = measure_verify(model, tokens, targets, 9, block=2, batch=1, **told)["nulls"]
    other = other.set_index([*KEYS]).loc[one.set_index([*KEYS]).index]
    assert list(one["heads"]) == list(other["heads"])
    partner = one["null"].isin(["shuffled", "position"]).to_numpy()
    np.testing.assert_allclose(one["beta"][~partner], other["beta"].to_numpy()[~partner], rtol=1e-4, atol=1e-6)
    assert one.query("null == 'placebo' and of == 'v_composed'")["beta"].nunique() == 6


KEYS = ("writer", "eraser", "null", "direction", "of")
