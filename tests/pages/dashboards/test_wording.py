"""Words and numbers that pages are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from erasure_sweep.dashboards.plots.theme import robust_range, text
from erasure_sweep.dashboards.wording import (
    amount,
    measured_line,
    number,
    protocol_warnings,
    taken_out_and_written_back,
)
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


class TestTakenOutAndWrittenBack:
    """Where written → remaining and what is erased differ, both numbers and the difference are told."""

    @pytest.mark.parametrize(
        ("written", "remaining", "erased", "words"),
        [
            (
                1.0,
                0.95,
                0.6,
                "0.60 of it is taken out and 0.55 is written back: 1.00 where it writes, 0.95 at the end.",
            ),
            (
                1.0,
                0.2,
                0.3,
                "0.30 of it is taken out and 0.50 is written against it otherwise, by MLPs or by heads that read others",
            ),
            (1.0, 2.0, -0.2, "Heads that read it add 0.20 of it and 0.80 is written along it: 1.00"),
        ],
    )
    def test_both_numbers(self, written: float, remaining: float, erased: float, words: str) -> None:
        assert taken_out_and_written_back(written, remaining, erased).startswith(words)

    @pytest.mark.parametrize(("remaining", "erased"), [(0.4, 0.6), (0.44, 0.6), (math.nan, 0.6), (0.4, math.nan)])
    def test_where_they_agree_or_are_not_known_there_is_nothing_to_say(self, remaining: float, erased: float) -> None:
        assert taken_out_and_written_back(1.0, remaining, erased) == ""
