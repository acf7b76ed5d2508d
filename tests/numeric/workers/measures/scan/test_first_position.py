"""Position 0 and growth: a sink leads no number, and a writer that fades in a growing stream is not called erased."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Target
from tests.support.models.growth import POWER_OF_SINK, WithSink, plant_growth, plant_sink
from tests.support.oracle.measuring import measure_tables, measure_verify
from tests.support.oracle.scan import scan_tables
from tests.support.oracle.v_composition import reading_tables

SEQ_LEN = 16


def draw(config: ModelConfig, n: int = 6) -> np.ndarray:
    return np.random.default_rng(3).integers(0, config.d_vocab, (n, SEQ_LEN))


def lean(config: ModelConfig, weights: dict[str, torch.Tensor]) -> LeanModel:
    return LeanModel(config, weights, dtype=torch.float64)


def pair(table: pd.DataFrame, planted: WithSink) -> pd.Series:
    return table.set_index(["writer", "eraser"]).loc[("pos_embed", planted.eraser)]


@pytest.fixture(scope="module")
def planted() -> WithSink:
    return plant_sink(7)


@pytest.fixture(scope="module")
def measured(planted: WithSink) -> dict[str, dict[str, pd.DataFrame]]:
    tokens = draw(planted.config)
    return {
        name: measure_tables(lean(planted.config, weights), tokens, block=2, first_position=False)
        for name, weights in (("plain", planted.plain), ("sink", planted.sink))
    }


class TestSink:
    def test_it_is_as_large_as_it_is_in_real_models(self, planted: WithSink) -> None:
        power = planted.sink["W_pos"].square().sum(dim=1)
        assert (power[0] / power[1:].mean()).item() == pytest.approx(
            POWER_OF_SINK, rel=0.02
        )  # the carrier gives a little

    def test_what_is_read_and_written_elsewhere_is_as_it_is_without(
        self, planted: WithSink, measured: dict[str, dict[str, pd.DataFrame]]
    ) -> None:
        plain, sink = measured["plain"], measured["sink"]
        for column in ("beta", "beta_centred", "p"):
            np.testing.assert_allclose(sink["v_composition"][column], plain["v_composition"][column], rtol=0, atol=1e-6)
        residual, components = plain["residual_projection"], plain["component_projection"]
        behind = [planted.eraser, "attn2", "MLP2"]
        before = ~residual["state"].isin(["resid_mid2", "resid_post2"]) & (residual["writer"].map(layer_of) < 2)
        for column in ("mean", "beta", "beta_centred", "effective_beta", "diluted", "constant_share"):
            states = [tables["residual_projection"].loc[before, column] for tables in (sink, plain)]
            np.testing.assert_allclose(*states, rtol=0, atol=1e-6, err_msg=column)
        others = ~(components["component"].isin(behind) | components["writer"].isin(behind))
        for column in ("mean", "beta", "beta_centred"):
            rest = [tables["component_projection"].loc[others, column] for tables in (sink, plain)]
            np.testing.assert_allclose(*rest, rtol=0, atol=1e-6, err_msg=column)

    def test_columns_of_their_own_show_it(
        self, planted: WithSink, measured: dict[str, dict[str, pd.DataFrame]]
    ) -> None:
        for name, weights in (("plain", planted.plain), ("sink", planted.sink)):
            row = pair(measured[name]["v_composition"], planted)
            assert row["beta_first"] == pytest.approx(planted.from_first(weights, SEQ_LEN), rel=1e-3)
        ends = [pair(measured[name]["v_composition"], planted)["beta_first"] for name in ("sink", "plain")]
        assert ends[0] < 3 * ends[1] < 0

    def test_measured_with_the_rest_it_leads_the_number(self, planted: WithSink) -> None:
        """As the paper measures; the oracle says the same."""
        tokens = draw(planted.config)
        whole = [
            pair(measure_tables(lean(planted.config, weights), tokens)["v_composition"], planted)["beta"]
            for weights in (planted.plain, planted.sink)
        ]
        assert abs(whole[1] - whole[0]) > 0.15
        oracle = pair(reading_tables(planted.config, planted.sink, tokens)["v_composition"], planted)
        assert whole[1] == pytest.approx(oracle["beta"], abs=1e-8)

    def test_verified_groups_do_not_see_it(self, planted: WithSink) -> None:
        tokens, target = draw(planted.config), Target("pos_embed", (planted.eraser,), "named")
        found = [
            measure_verify(lean(planted.config, w), tokens, (target,), donors=(0, 1), places=1, first_position=False)
            for w in (planted.plain, planted.sink)
        ]
        betas = [tables["eraser_group"]["beta"] for tables in found]
        np.testing.assert_allclose(*betas, rtol=0, atol=1e-6)


class TestGrowth:
    @pytest.mark.parametrize("factor", [10.0, 0.5])
    def test_a_stream_that_changes_its_length_dilutes_and_erases_nothing(self, factor: float) -> None:
        planted = plant_growth(11, factor)
        tables = measure_tables(lean(planted.config, planted.weights), draw(planted.config), first_position=False)
        rows = tables["residual_projection"].set_index(["writer", "state"]).loc[planted.writer]
        end = rows.loc["resid_post2"]
        assert (end["beta"], end["median"]) == pytest.approx((1.0, 1.0), abs=0.004)
        assert end["diluted"] == pytest.approx(1.0 - 1.0 / factor, rel=0.01)
        assert end["effective_beta"] == pytest.approx(1.0 / factor, rel=0.01)
        assert end["effective_median"] == pytest.approx(1.0 / factor, rel=0.01, abs=0.004)
        assert rows.loc["resid_mid1", ["diluted", "effective_beta"]].tolist() == pytest.approx([0.0, 1.0], abs=2e-3)
        pairs = tables["v_composition"].set_index(["writer", "eraser"])
        assert pairs.loc[(planted.writer, "later"), "beta"] == pytest.approx(0.0, abs=1e-6)

    def test_the_oracle_says_the_same(self) -> None:
        planted = plant_growth(12, 4.0)
        oracle = scan_tables(planted.config, planted.weights, draw(planted.config), first_position=False)
        rows = oracle["residual_projection"].set_index(["writer", "state"])
        assert rows.loc[(planted.writer, "resid_post2"), "diluted"] == pytest.approx(0.75, abs=2e-3)

    def test_float64_agrees_far_better(self) -> None:
        planted = plant_growth(13, 3.0)
        tokens = draw(planted.config)
        fast = measure_tables(lean(planted.config, planted.weights), tokens, first_position=False)[
            "residual_projection"
        ]
        exact = scan_tables(planted.config, planted.weights, tokens, first_position=False)["residual_projection"]
        for column in ("effective_beta", "diluted", "constant_share"):
            np.testing.assert_allclose(fast[column], exact[column], rtol=1e-8, atol=1e-8)


def test_the_constant_share_is_that_of_the_mean_vector() -> None:
    """A writer that writes the same everywhere has nothing but its constant, one that never does has none."""
    planted = plant_sink(9)
    weights = {**planted.plain, "W_pos": planted.plain["W_pos"].clone()}
    weights["W_pos"][:] = weights["W_pos"][3]
    shares = measure_tables(lean(planted.config, weights), draw(planted.config))["residual_projection"]
    by_writer = shares.groupby("writer")["constant_share"].agg(["min", "max"])
    assert by_writer.loc["pos_embed"].tolist() == pytest.approx([1.0, 1.0])
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)[:, None]
    turned = {**planted.plain, "W_pos": signs * planted.plain["W_pos"][3]}
    shares = measure_tables(lean(planted.config, turned), draw(planted.config))["residual_projection"]
    assert shares.groupby("writer")["constant_share"].max()["pos_embed"] == pytest.approx(0.0, abs=1e-12)
