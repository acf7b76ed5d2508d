"""MLPs that were built: one that deletes a writer, one that shrinks everything, one that does not read the writer at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Target
from tests.support.models.planting import CARRIER, Builder, small_config
from tests.support.oracle.measuring import measure_verify


def builder() -> Builder:
    """A quiet model of three layers, in which L0H0 writes into a store."""
    built = Builder(small_config(3, 3), np.random.default_rng(91), quiet=True)
    built.plant_writer("L0H0")
    return built


def mlp_rows(built: Builder) -> pd.DataFrame:
    return tables_of(built)["mlp_erasure"].set_index("component")


def tables_of(built: Builder) -> dict[str, pd.DataFrame]:
    config = built.config
    tokens = np.random.default_rng(71).integers(0, config.d_vocab, (12, config.n_ctx))
    targets = (Target("L0H0", ("L1H0",), "named"),)
    return measure_verify(LeanModel(config, built.tensors()), tokens, targets, block=3, batch=3, places=0, seed=1)


def test_an_mlp_that_deletes_a_writer() -> None:
    built = builder()
    store = built.bases.stores[0]
    built.plant_linear_mlp(2, store, -0.8 * store)
    rows = mlp_rows(built)
    assert rows.loc["MLP2", "beta"] == pytest.approx(-0.8, abs=2e-3)
    assert rows.loc["MLP2", ["read_median", "patched_median"]].tolist() == pytest.approx([-0.8, 0.0], abs=0.01)
    assert rows.loc["MLP2", "verdict"] == "erased" and rows.loc["MLP2", "placebo_lowest"] > -0.7
    assert abs(rows.loc["MLP1", "beta"]) < 1e-3 and rows.loc["MLP1", "verdict"] == "not found"


def test_an_mlp_that_shrinks_everything_erases_no_writer() -> None:
    built = builder()
    seen = np.concatenate([built.bases.code, built.bases.clock, built.bases.rest, *built.bases.stores])
    built.plant_linear_mlp(2, seen, -0.4 * seen)
    row = mlp_rows(built).loc["MLP2"]
    assert row[["beta", "placebo_lowest", "placebo_median", "placebo_highest"]].tolist() == pytest.approx(
        4 * [-0.4], abs=2e-3
    )
    assert row["verdict"] == "shrinks everything"


def test_an_mlp_that_deletes_a_writer_with_its_siblings() -> None:
    built = Builder(small_config(3, 3, d_model=64), np.random.default_rng(92), n_stores=3, quiet=True)
    for head in range(3):
        built.plant_writer(f"L0H{head}", head)
    stores = np.concatenate(built.bases.stores)
    built.plant_linear_mlp(2, stores, -0.8 * stores)
    row = mlp_rows(built).loc["MLP2"]
    assert row[["beta", "siblings_median"]].tolist() == pytest.approx(2 * [-0.8], abs=2e-3)
    assert row["verdict"] == "erased, with its siblings"


def test_an_mlp_that_does_not_read_a_writer_takes_nothing_of_it() -> None:
    """It reads the carrier and writes along the writer; the writer makes half of the scale that it reads everything over.

    With the scale computed anew it seemed to take out 0.11 of the writer because it reads it.
    """
    built = builder()
    written = built.weights["W_E"] @ built.bases.code.T
    head, store = (0, 0), built.bases.stores[0]
    into, out = built.weights["W_V"][head], built.weights["W_O"][head]
    mean = (built.bases.code.T @ written.mean(axis=0) @ into / built.scale @ out) @ store.T
    built.weights["W_O"][head] = out * CARRIER / np.linalg.norm(mean)
    built.plant_linear_mlp(2, built.bases.carrier, mean[None] / np.linalg.norm(mean) @ store)
    rows = mlp_rows(built)
    assert rows.loc["MLP2", "clean_median"] > 0.3
    assert abs(rows.loc["MLP2", "beta"]) < 1e-3


def test_who_makes_up_for_erasers_writes_less_where_they_are_patched() -> None:
    """A second eraser that finds nothing left, and one that writes along the writer whatever is erased of it."""
    built = builder()
    store = built.bases.stores[0]
    built.plant_reader("L1H0", "self", -1.0)
    built.plant_linear_mlp(2, store, -0.5 * store)
    rows = later_use(built)
    assert rows.loc["MLP2", ["clean_beta", "patched_beta", "response"]].tolist() == pytest.approx(
        [0.0, -0.5, 0.5], abs=2e-3
    )
    built.plant_linear_mlp(2, built.bases.carrier, 4.0 * store[:1] / CARRIER)
    rows = later_use(built)
    assert abs(rows.loc["MLP2", "clean_beta"]) > 0.05 and abs(rows.loc["MLP2", "response"]) < 1e-3


def later_use(built: Builder) -> pd.DataFrame:
    return tables_of(built)["later_use"].set_index("component")
