"""Whose DLA to trust: words, badges, and how many components have each."""

from __future__ import annotations

import numpy as np
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.trust import plot_trust, trust_bars
from erasure_sweep.dashboards.model.trust import badge, trust_line, trust_table
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.workers.tables.facts.trust import WORDS, is_settled
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import only, tables_of


class TestTrust:
    def test_counts_and_line(self, model: ModelTables) -> None:
        table = model.tables["dla_trust"]
        (counts,) = trust_bars([("model", model)]).counts
        assert counts == {**table["trust"].value_counts().to_dict(), "not measured": 1}
        assert list(counts) == [word for word in (*WORDS, "not measured") if word in counts]
        by_hand = tables_of(
            dla_trust=[
                {"writer": f"L0H{i}", "trust": word} for i, word in enumerate(["trust", *["cancelled"] * 3, None])
            ]
        )
        assert trust_line(by_hand) == (
            "DLA verdicts of 4 components: 1 trust, 3 cancelled (L0H1, L0H2, L0H3). Of 1 more it could not be told."
        )
        one = {"writer": "embed", "trust": "partly cancelled", "effect_slope": 0.5, "low": 0.3, "high": 0.8}
        assert trust_line(tables_of(dla_trust=[one])) == (
            "DLA verdicts of 1 component: 1 partly cancelled (embed). Not settled, for the interval spans several words: "
            "embed."
        )
        assert trust_line(tables_of(dla_trust=[one | {"trust": None}])) == ""
        assert trust_line(tables_of()) == ""

    def test_a_row_per_component_the_least_trustworthy_first(self, model: ModelTables) -> None:
        shown, table = trust_table(ModelView(model)), model.tables["dla_trust"]
        slopes = [row[2] for row in shown.rows]
        assert slopes[:-1] == sorted(table["effect_slope"].dropna())
        assert np.isnan(slopes[-1])
        assert [row[0] for row in shown.rows][-1] == "L1H1"
        first = only(table, writer=shown.rows[0][0])
        assert shown.rows[0][1] == badge(first["trust"], *first[["effect_slope", "low", "high"]])
        assert shown.rows[0][3] == f"[{first['low']:.2f}, {first['high']:.2f}]".replace("-", "−")
        assert shown.rows[0][-1] == 96

    def test_one_block_has_no_intervals(self, block: ModelTables) -> None:
        assert {row[3] for row in trust_table(ModelView(block)).rows} == {None}

    def test_badges_are_told_apart_without_colour_and_escaped(self) -> None:
        badges = [badge(word) for word in (*WORDS, None, "<b>")]
        assert len(set(badges)) == 6
        assert badges[1] == Markup('<span class="badge partly">partly cancelled</span>')
        assert badges[-1] == '<span class="badge">&lt;b&gt;</span>'

    def test_badges_say_what_is_not_settled_and_what_is_amplified(self) -> None:
        assert badge("trust", 0.9, 0.8, 1.2) == badge("trust")
        assert badge("cancelled", 0.2, 0.1, 0.3) == (
            '<span class="badge cancelled" title="its interval [0.10, 0.30] spans several words">cancelled?</span>'
        )
        amplified = badge("trust", 1.5, 0.7, 2.3)
        assert "amplified: it does more than its DLA says; its interval [0.70, 2.30]" in amplified
        assert badge("trust", 1.5, 1.4, 1.6).endswith('its DLA says">trust</span>')
        assert "amplified" not in badge("partly cancelled", 1.5)

    @pytest.mark.parametrize(
        ("low", "high", "same"),
        [
            (0.75, 3.0, True),
            (0.74, 0.76, False),
            (-0.24, 0.24, True),
            (-0.25, 0.24, False),
            (-0.9, 0.8, False),
            (-9.0, -0.25, True),
            (np.nan, 0.3, True),
            (0.3, np.nan, True),
        ],
    )
    def test_a_word_is_settled_where_its_interval_has_no_other(self, low: float, high: float, same: bool) -> None:
        assert is_settled(low, high) is same

    def test_stacked_bars_by_word(self) -> None:
        words = [["trust", "trust", "cancelled"], ["reversed"]]
        models = [tables_of(dla_trust=[{"writer": f"L0H{i}", "trust": w} for i, w in enumerate(one)]) for one in words]
        shown = trust_bars([("a", models[0]), ("none", tables_of()), ("b", models[1])])
        assert shown.models == ["a", "b"]
        assert shown.counts == [{"trust": 2, "cancelled": 1}, {"reversed": 1}]
        figure = plot_trust(shown)
        assert {bars.name: list(bars.y) for bars in figure.data} == {
            "trust": [2, 0],
            "cancelled": [1, 0],
            "reversed": [0, 1],
        }
        shares = plot_trust(shown, as_share=True)
        assert [sum(bars.y[i] for bars in shares.data) for i in range(2)] == [pytest.approx(1), pytest.approx(1)]
        assert len({bars.marker.pattern.shape for bars in figure.data}) == 3

    def test_numbers_stand_in_all_segments_but_the_lowest(self) -> None:
        words = ["trust"] * 40 + ["partly cancelled"] * 2 + ["cancelled"]
        rows = [{"writer": f"L0H{at}", "trust": word} for at, word in enumerate(words)]
        shown = trust_bars([("m", tables_of(dla_trust=rows[:39])), ("n", tables_of(dla_trust=rows))])
        for as_share in (False, True):
            texts = {bars.name: list(bars.text) for bars in plot_trust(shown, as_share).data}
            assert texts == {"trust": ["39", "40"], "partly cancelled": ["", "2"], "cancelled": ["", ""]}
        few = trust_bars([("m", tables_of(dla_trust=rows[38:]))])
        assert [list(bars.text) for bars in plot_trust(few).data] == [["2"], ["2"], ["1"]]
