"""Whose DLA to trust: words, badges, and how many components have each; and who takes it back."""

from __future__ import annotations

import numpy as np
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.trust import plot_trust, trust_bars, trust_card
from erasure_sweep.dashboards.model.mediation import mediation_table, mediations
from erasure_sweep.dashboards.model.trust import badge, ranges, trust_line, trust_table
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.facts.trust import THRESHOLDS, WORDS
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.verified_models import only, tables_of
from tests.support.fakes.views import comparison_view


class TestTrust:
    def test_counts_and_line(self, model: ModelTables) -> None:
        table = model.tables["dla_trust"]
        (counts,) = trust_bars([("model", model)]).counts
        assert counts == {**table["trust"].value_counts().to_dict(), "not measured": 1}
        assert list(counts) == [word for word in (*WORDS, "not measured") if word in counts]
        by_hand = tables_of(
            dla_trust=[
                {"writer": f"L0H{i}", "trust": word} for i, word in enumerate(["holds", *["cancelled"] * 3, None])
            ]
        )
        assert trust_line(by_hand) == (
            "DLA verdicts of 4 components: 1 holds, 3 cancelled (L0H1, L0H2, L0H3). Of 1 more it could not be told."
        )
        one = {"writer": "embed", "trust": "partly cancelled", "share": 0.5, "settled": False}
        assert trust_line(tables_of(dla_trust=[one])) == (
            "DLA verdicts of 1 component: 1 partly cancelled (embed). Not settled: embed."
        )
        assert trust_line(tables_of(dla_trust=[one | {"trust": None}])) == ""
        assert trust_line(tables_of()) == ""

    def test_a_row_per_component_the_least_trustworthy_first(self, model: ModelTables) -> None:
        shown, table = trust_table(ModelView(model)), model.tables["dla_trust"]
        concordance = [row[6] for row in shown.rows]
        assert concordance[:-1] == sorted(table["concordance"].dropna())
        assert np.isnan(concordance[-1])
        assert [row[0] for row in shown.rows][-1] == "L1H1"
        first = only(table, writer=shown.rows[0][0])
        assert shown.rows[0][1] == badge(first["trust"], first["settled"])
        assert shown.rows[0][3] == f"[{first['share_low']:.2f}, {first['share_high']:.2f}]".replace("-", "−")
        assert shown.rows[0][-1] == 96

    def test_one_block_has_no_intervals(self, block: ModelTables) -> None:
        assert {row[3] for row in trust_table(ModelView(block)).rows} == {None}

    def test_badges_are_told_apart_without_colour_and_escaped(self) -> None:
        badges = [badge(word) for word in (*WORDS, None, "<b>")]
        assert len(set(badges)) == 9
        assert badges[2] == Markup('<span class="badge partly">partly cancelled</span>')
        assert badges[-1] == '<span class="badge">&lt;b&gt;</span>'

    def test_badges_say_what_is_not_settled(self) -> None:
        assert "?" not in badge("holds", True)
        doubted = badge("cancelled", False)
        assert doubted.endswith(">cancelled?</span>") and 'title="not settled' in doubted
        assert badge(None, False) == badge(None)

    def test_the_page_says_with_which_thresholds(self, model: ModelTables) -> None:
        assert "partly cancelled: below 0.75; holds: up to 1.33; amplified: above" in ranges()
        assert ranges() in trust_table(ModelView(model)).caption
        tables = dict(model.tables)
        tables["dla_trust"] = tables["dla_trust"].copy()
        tables["dla_trust"].attrs[THRESHOLDS] = TrustThresholds(holds=0.5).noted
        other = trust_table(ModelView(model._replace(tables=tables))).caption
        assert "partly cancelled: below 0.5;" in other
        changed = model._replace(tables=tables)
        for models, said in (([changed], "below 0.5;"), ([model, changed], "by thresholds of each model")):
            assert said in trust_card(comparison_view(models)).caption

    def test_stacked_bars_by_word(self) -> None:
        words = [["holds", "holds", "cancelled"], ["reversed"]]
        models = [tables_of(dla_trust=[{"writer": f"L0H{i}", "trust": w} for i, w in enumerate(one)]) for one in words]
        shown = trust_bars([("a", models[0]), ("none", tables_of()), ("b", models[1])])
        assert shown.models == ["a", "b"]
        assert shown.counts == [{"holds": 2, "cancelled": 1}, {"reversed": 1}]
        figure = plot_trust(shown)
        assert {bars.name: list(bars.y) for bars in figure.data} == {
            "holds": [2, 0],
            "cancelled": [1, 0],
            "reversed": [0, 1],
        }
        shares = plot_trust(shown, as_share=True)
        assert [sum(bars.y[i] for bars in shares.data) for i in range(2)] == [pytest.approx(1), pytest.approx(1)]

    def test_words_are_told_apart_without_colour(self) -> None:
        rows = [{"writer": f"L0H{at}", "trust": word} for at, word in enumerate((*WORDS, None))]
        figure = plot_trust(trust_bars([("m", tables_of(dla_trust=rows))]))
        looks = [(bars.marker.color, bars.marker.pattern.shape) for bars in figure.data]
        assert len(set(looks)) == len({shape for _, shape in looks}) == 8

    def test_numbers_stand_in_all_segments_but_the_lowest(self) -> None:
        words = ["holds"] * 40 + ["partly cancelled"] * 2 + ["cancelled"]
        rows = [{"writer": f"L0H{at}", "trust": word} for at, word in enumerate(words)]
        shown = trust_bars([("m", tables_of(dla_trust=rows[:39])), ("n", tables_of(dla_trust=rows))])
        for as_share in (False, True):
            texts = {bars.name: list(bars.text) for bars in plot_trust(shown, as_share).data}
            assert texts == {"holds": ["39", "40"], "partly cancelled": ["", "2"], "cancelled": ["", ""]}
        few = trust_bars([("m", tables_of(dla_trust=rows[38:]))])
        assert [list(bars.text) for bars in plot_trust(few).data] == [["2"], ["2"], ["1"]]


class TestMediation:
    def test_by_hand(self) -> None:
        shares = {"MLP0": 0.1, "L1H0": -0.6, "L1H1": 0.004, "MLP1": -0.2, "final_norm": 0.05}
        rows = [{"writer": "L0H1", "mediator": label, "share": share} for label, share in shares.items()]
        rows += [{"writer": "MLP1", "mediator": "final_norm", "share": 0.02}]
        rows += [{"writer": "embed", "mediator": "final_norm", "share": np.nan}]
        arrive = [{"writer": writer, "share": share} for writer, share in (("MLP1", 1.02), ("L0H1", 0.354))]
        model = tables_of(dla_mediation=rows, dla_trust=arrive)
        first, last = mediations(model)
        assert (first.writer, first.arrives, last.writer) == ("L0H1", 0.354, "MLP1")
        assert (first.heads, first.mlps, first.final_norm) == pytest.approx((-0.596, -0.1, 0.05))
        assert first.taken_back_by == [("L1H0", -0.6), ("MLP1", -0.2)]
        assert first.added_by == [("MLP0", 0.1), ("final_norm", 0.05)]
        row = mediation_table(ModelView(model)).rows[0]
        assert row[-2:] == ["L1H0 −0.60, MLP1 −0.20", "MLP0 0.10, final norm 0.05"]

    def test_shares_add_up_to_what_arrives(self, model: ModelTables) -> None:
        found = mediations(model)
        assert len(found) > 5
        for one in found:
            assert 1 + one.heads + one.mlps + one.final_norm == pytest.approx(one.arrives)
