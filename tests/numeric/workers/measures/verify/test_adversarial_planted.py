"""Places of high attribution in models that were built: what moves with the text, what arrives, and what fools DLA."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.verify.high_places import first_half
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Target
from tests.support.models.planting import CARRIER, STORE_DIM, Builder, Source, small_config
from tests.support.oracle.measuring import measure_verify

WRITERS = ("pos_embed", "L0H0", "L0H1", "L0H2")
N_PROMPTS = 12


def clockwork(erased: float = 0.0) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Heads of the first layer that write a function of the position, of their own token, and of the one before.

    Args:
        erased: how much of the first the next layer's first head takes back.
    """
    config = small_config(2, 3, d_model=64, attn_only=True)
    builder = Builder(config, np.random.default_rng(6), n_stores=3, quiet=True)
    clock = Source(builder.bases.clock, builder.normal(len(builder.bases.clock), 4, std=1.0))
    code = Source(builder.bases.code, builder.normal(len(builder.bases.code), 4, std=1.0))
    for head, (attend, source) in enumerate((("self", clock), ("self", code), ("previous", code))):
        builder.plant_head(f"L0H{head}", attend, [source], head)
    speak_up(builder)
    builder.plant_reader("L1H0", "self", -erased)
    return config, builder.tensors()


def speak_up(builder: Builder) -> None:
    """Make the logits hear what stands in the stores eight times as well, so that attributions are large, and silence the
    second layer's other heads, which read the stores."""
    stores = np.concatenate(builder.bases.stores)
    builder.weights["W_U"] += 7.0 * stores.T @ (stores @ builder.weights["W_U"])
    builder.weights["W_O"][1] = 0.0


def places(config: ModelConfig, weights: dict[str, torch.Tensor], *writers: str, n: int = 6) -> pd.DataFrame:
    tokens = np.random.default_rng(71).integers(0, config.d_vocab, (N_PROMPTS, config.n_ctx))
    targets = tuple(Target(writer, ("L1H0",), "named") for writer in writers)
    tables = measure_verify(LeanModel(config, weights), tokens, targets, block=3, batch=3, places=n, seed=1)
    return tables["adversarial"]


def of_writers(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.query("role == 'writer' and inputs == 'last'").set_index("writer")


def test_only_what_comes_from_the_text_moves_with_the_text() -> None:
    rows = places(*clockwork(), *WRITERS)
    spread = (rows["q87_5"] - rows["q12_5"]).set_axis(pd.MultiIndex.from_frame(rows[["writer", "role", "inputs"]]))
    spread = spread.xs("writer", level="role").groupby(level=["writer", "inputs"])
    for inputs in ("last", "all"):
        assert spread.max()["pos_embed", inputs] < 1e-4
        assert spread.max()["L0H0", inputs] < 1e-2
        assert spread.min()["L0H1", inputs] > 0.1
    assert spread.max()["L0H2", "last"] < 1e-2, "what it reads is not at the last position"
    assert spread.min()["L0H2", "all"] > 0.1
    changes = rows.query("role == 'writer'").set_index(["writer", "inputs"])["change"]
    assert changes.loc[["pos_embed"]].max() < 1e-3
    assert changes.loc[["L0H0"]].max() < 0.01
    assert (changes.loc[[("L0H2", "last")]] < 0.01).all()


def test_a_positional_contribution_that_arrives_does_not_fool_dla() -> None:
    """Whatever the text says it is the same, which was called fooling; it is what DLA says that it is."""
    rows = of_writers(places(*clockwork(), "L0H0"))
    assert set(rows["half"]) == {"found", "shown"}
    assert rows["clean"].min() > 0.5 and rows["change"].max() < 0.01
    np.testing.assert_allclose(rows["total"], rows["direct"], rtol=0.02)
    assert rows["total_share"].min() > 0.75
    assert not rows["fools"].any()


@pytest.mark.parametrize(("erased", "fools"), [(1.0, True), (0.9, True), (0.5, False)])
def test_a_positional_head_that_is_erased_fools_dla(erased: float, fools: bool) -> None:
    rows = of_writers(places(*clockwork(erased), "L0H0"))
    assert rows["clean"].min() > 0.5 and rows["change"].max() < 0.01
    np.testing.assert_allclose(rows["total"], (1.0 - erased) * rows["direct"], atol=0.02)
    assert set(rows["fools"]) == {fools}


def test_what_comes_from_the_text_and_is_erased_fools_dla_too() -> None:
    config, _ = clockwork()
    builder = Builder(config, np.random.default_rng(7), n_stores=3, quiet=True)
    code = Source(builder.bases.code, builder.normal(len(builder.bases.code), 4, std=1.0))
    builder.plant_head("L0H1", "self", [code], 0)
    speak_up(builder)
    builder.plant_reader("L1H0", "self", -1.0)
    rows = of_writers(places(config, builder.tensors(), "L0H1"))
    large = (rows["clean"] > 0.5) & (rows["direct"] > 0.5)
    assert large.any() and list(rows["fools"]) == list(large)


def test_an_offset_that_nothing_changes_does_not_fool_dla() -> None:
    """A head that writes its mean everywhere: nothing of its DLA arrives, and none of it was to be expected to."""
    config = small_config(2, 3, d_model=64, attn_only=True)
    builder = Builder(config, np.random.default_rng(8), n_stores=3, quiet=True)
    offset = Source(builder.bases.carrier, builder.normal(1, STORE_DIM, std=2.0) / CARRIER)
    builder.plant_head("L0H0", "self", [offset], 0)
    speak_up(builder)
    rows = of_writers(places(config, builder.tensors(), "L0H0"))
    assert rows["clean"].min() > 0.5
    assert rows[["direct", "total"]].abs().max().max() < 0.02
    assert not rows["fools"].any()


def test_what_is_said_of_places_is_counted_on_other_prompts() -> None:
    config, weights = clockwork()
    rows = of_writers(places(config, weights, *WRITERS, n=7))
    finding = set(np.flatnonzero(first_half(1, np.arange(N_PROMPTS))))
    assert len(finding) == N_PROMPTS // 2
    for writer, of_writer in rows.groupby(level="writer"):
        found, shown = (of_writer[of_writer["half"] == half] for half in ("found", "shown"))
        assert set(found["prompt"]) <= finding and not set(shown["prompt"]) & finding, writer
        assert len(found) == 4 and len(shown) <= 3
        assert shown["clean"].min() >= found["clean"].min() or not len(shown)
    assert (rows["half"] == "shown").any()
