"""Words and numbers that pages are made of."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.plots.theme import robust_range, text
from erasure_sweep.dashboards.wording import amount, measured_line, number, protocol_warnings
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_manifest, fake_model, fake_sweep, model_tables

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestWords:
    def test_numbers(self) -> None:
        assert [number(v) for v in (-0.907, 0.001, -0.001, None, float("nan"), "x")] == [
            "−0.91",
            "0.00",
            "0.00",
            *"———",
        ]
        assert [amount(v) for v in (912, 98304, 124_439_808, 1.5e9, None)] == [
            *("912", "98,304", "124 million", "1.5 billion", "—")
        ]
        assert [amount(v) for v in (999_400, 999_600_000, 2.5e12, 1.23e15)] == [
            *("999,400", "1 billion", "2.5 trillion", "1,230 trillion")
        ]

    def test_what_was_measured(self, model: ModelTables) -> None:
        said = measured_line(model.about, fake_manifest([model]))
        assert said == (
            "Measured on 8 prompts of 12 tokens, every position (96 tokens), corpus stdlib, seed 5235, float32, on cpu, "
            "erasure-sweep 0.1.0."
        )
        assert "32 positions of each" in measured_line(None, fake_sweep(config={"positions": 32}))
        for left_out in (False, "False"):  # MLflow makes text of parameters
            config = {"positions": "all", "first_position": left_out}
            assert "every position but the first" in measured_line(None, fake_sweep(config=config))
        assert measured_line(None, None).startswith("Measured on — prompts")

    def test_warnings_only_where_protocols_differ(self) -> None:
        about = {"n_prompts": 8, "n_tokens": 96, "corpus_fingerprint": "a", "state": "FINISHED"}
        same = model_tables(about, {})
        assert protocol_warnings([same, same], ["one", "two"]) == []
        changes = {"n_prompts": 4, "corpus_fingerprint": "b", "state": "FAILED", "reason": "out of memory"}
        other = model_tables({**about, **changes}, {})
        warnings = protocol_warnings([same, other], ["one", "two"])
        assert warnings[0] == "two was not measured in full (failed: out of memory)."
        assert warnings[1] == "Models were measured on different numbers of prompts: one 8, two 4."
        assert "Models did not read the same tokens" in warnings[2]
        assert len(warnings) == 3

    def test_plotly_sees_no_markup_and_no_placeholders(self) -> None:
        assert text("<b>x</b> & %{y}") == "&lt;b&gt;x&lt;/b&gt; &amp; %\u200b{y}"

    def test_robust_range_shows_the_core_and_cuts_the_wings(self) -> None:
        low, high = robust_range(np.array([0.0, 1.0, np.nan]), np.array([-80.0, 1.2]))
        assert low == pytest.approx(-0.5 - 0.04 * 1.7)
        assert high == pytest.approx(1.2 + 0.04 * 1.7)
        assert robust_range(np.array([99.0]), np.array([99.0]), limit=4.0)[1] == pytest.approx(4 + 0.04 * 4)
        assert robust_range(np.array([]), np.array([]))[0] < 0
