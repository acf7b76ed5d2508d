"""What is shown of verified writers, against tables of invented models and values worked out by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.significant_erasers import SignificantPairs, plot_significant, significant
from erasure_sweep.dashboards.comparison.trust import plot_trust, trust_bars
from erasure_sweep.dashboards.html.parts import Card, Part, Prose
from erasure_sweep.dashboards.model.trust import badge, trust_line, trust_table
from erasure_sweep.dashboards.model.verified import first_head, pair_name, verdict_line
from erasure_sweep.dashboards.model.verify.ablation_loss import loss_table
from erasure_sweep.dashboards.model.verify.adversarial import adversarial_places, plot_places
from erasure_sweep.dashboards.model.verify.adversarial_prompts import adversarial_table
from erasure_sweep.dashboards.model.verify.aligned_tokens import aligned_table
from erasure_sweep.dashboards.model.verify.carries import carries_table
from erasure_sweep.dashboards.model.verify.dla_effects import dla_effects_table
from erasure_sweep.dashboards.model.verify.dla_points import EFFECTS, dla_cloud, dla_fits, line_words, plot_cloud
from erasure_sweep.dashboards.model.verify.eraser_group import eraser_group, group_nulls, plot_group
from erasure_sweep.dashboards.model.verify.later_use import later_use, plot_later_use
from erasure_sweep.dashboards.model.verify.mlp_erasers import mlp_erasers, plot_mlps
from erasure_sweep.dashboards.model.verify.patched_states import BANDS, patched_states, plot_states
from erasure_sweep.dashboards.model.verify.position_profile import plot_profile, position_profile
from erasure_sweep.dashboards.model.verify.prompt_words import by_construction, tail_words, token_words
from erasure_sweep.dashboards.model.verify.verdicts import NOT_VERIFIED, verdict_list
from erasure_sweep.dashboards.model.view import MODEL, ModelView
from erasure_sweep.dashboards.model_tables import ModelTables, dla_of
from erasure_sweep.dashboards.wording import eraser_name
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables import registry
from erasure_sweep.workers.tables.facts.trust import WORDS, is_settled
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, verdict_of, verified_groups, was_verified
from tests.support.fakes.tables import fake_model
from tests.support.fakes.views import verify_cards

NAMED = ("L1H0", "L2H1")


def group_of(writer: str, label: str) -> VerifiedGroup:
    """A group whose heads stand in their order in the stream."""
    return VerifiedGroup(writer, label, tuple(label.split("+")))


GROUP = group_of("L0H1", "L1H0+L2H1")


@pytest.fixture(scope="module")
def model() -> ModelTables:
    """Eight prompts of twelve tokens in two blocks; of L0H1 a named group, and what the rule finds."""
    return fake_model("m", 3, 3, seed=3, n_tokens=96, d_model=40, zero=("L1H1",), verify=True, groups={"L0H1": NAMED})


@pytest.fixture(scope="module")
def block() -> ModelTables:
    """Two prompts, one block: no intervals and no verdicts."""
    return fake_model("one", 2, 2, seed=2, n_tokens=24, d_model=16, verify=True, tokenizer=False)


def only(table: pd.DataFrame, **keys: Any) -> pd.Series:
    """The one row with these keys."""
    wanted = np.logical_and.reduce([table[name] == value for name, value in keys.items()])
    assert wanted.sum() == 1
    return table[wanted].iloc[0]


def tables_of(**rows: list[dict[str, Any]]) -> ModelTables:
    """A model with these rows alone."""
    return ModelTables({}, {name: pd.DataFrame(found) for name, found in rows.items()})


def _content(part: Part) -> Any:
    """What a part shows; nothing where it only says that there is none."""
    if isinstance(part, Prose):
        return part.bodies
    return part.figures if isinstance(part, Card) else part.rows


VERIFY_TABLES = [name for name in registry.tables_of("verify") if name != "dla_correlation"]


class TestTargets:
    def test_are_by_rank_with_all_groups_of_a_writer(self, model: ModelTables) -> None:
        targets = verified_groups(model.tables)
        pairs = model.tables["nulls"][["writer", "eraser"]].itertuples(index=False, name=None)
        assert {target[:2] for target in targets} == set(pairs)
        assert (GROUP.writer, GROUP.label) in [target[:2] for target in targets]
        ranks = model.tables["writers"].set_index("writer")["rank"]
        found = [ranks[target.writer] for target in targets]
        assert found == sorted(found)

    def test_are_found_without_the_other_tables(self, model: ModelTables) -> None:
        groups = {"eraser_group": model.tables["eraser_group"]}
        assert set(verified_groups(groups)) == set(verified_groups(model.tables))

    def test_a_scan_has_none(self) -> None:
        scan = fake_model("scan", 2, 2, n_tokens=24, reading=True)
        assert not was_verified(scan.tables)
        assert verified_groups(scan.tables) == []
        assert verdict_list(scan) == ""

    def test_rows_of_verify_do_not_enter_the_scans_correlations(self, model: ModelTables) -> None:
        table = model.tables["dla_correlation"]
        assert set(table["stage"]) == {"scan", "verify"}
        grid = dla_of(model, "full")
        # the named group is in the scan too, those of the rule are not
        of_rule = {target.label for target in verified_groups(model.tables)} - {GROUP.label}
        assert of_rule
        assert not {label for label in of_rule if "+" in label} & set(grid.columns)
        older = {"dla_correlation": table[table["stage"] == "scan"].drop(columns="stage")}
        np.testing.assert_array_equal(dla_of(ModelTables({}, older), "full").values["r"], grid.values["r"])


VERDICT = {
    **{"writer": "L0H2", "group": "L2H2+L2H3", "eraser": "L2H2+L2H3", "chosen": "rule", "held_out": True},
    **{"beta": -0.614, "beta_low": -0.65, "beta_high": -0.573, "position_share": 0.8, "verdict": "erased"},
}
"""A group's row of ``eraser_group``."""


class TestVerdicts:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                {},
                "L0H2 is erased by L2H2+L2H3: held-out pooled β −0.61 [−0.65, −0.57]; position alone explains "
                "80\u00a0% of this erasure.",
            ),
            (
                {"held_out": False, "position_share": None},
                "L0H2 is erased by L2H2+L2H3: pooled β, on the scan's own prompts, −0.61 [−0.65, −0.57].",
            ),
            ({"verdict": "not found"}, "L0H2: erasure by L2H2+L2H3 not found: held-out pooled β −0.61 [−0.65, −0.57]."),
            (
                {"verdict": None, "beta_low": None, "beta_high": None},
                "L0H2: no verdict on L2H2+L2H3, for one block of prompts gives no interval: held-out pooled β −0.61; "
                "position alone explains 80\u00a0% of this erasure.",
            ),
            (
                {"verdict": "not found", "chosen": "all", "eraser": "later", "group": "later"},
                "L0H2: erasure not found, no single head qualifies; all later heads together: held-out pooled β −0.61 "
                "[−0.65, −0.57].",
            ),
            ({"beta": None}, "L0H2: nothing was measured of L2H2+L2H3, for its output is zero or was not read."),
        ],
    )
    def test_in_words(self, change: dict[str, Any], said: str) -> None:
        row = VERDICT | change
        found = verdict_of(tables_of(eraser_group=[row]).tables, group_of("L0H2", row["eraser"]))
        assert found is not None
        assert verdict_line(found) == said

    def test_of_a_group_of_one_head_the_row_of_the_group_counts(self) -> None:
        head = {**VERDICT, "eraser": "L2H2", "verdict": None, "position_share": None}
        rows = [{**head, "group": "L2H2", "chosen": "named"}, head, {**VERDICT, "eraser": "L2H2+L2H3"}]
        null = {"writer": "L0H2", "null": "measured"}
        model = tables_of(eraser_group=rows, nulls=[{**null, "eraser": "L2H2"}, {**null, "eraser": "L2H2+L2H3"}])
        assert verified_groups(model.tables) == [group_of("L0H2", "L2H2"), group_of("L0H2", "L2H2+L2H3")]
        found = verdict_of(model.tables, group_of("L0H2", "L2H2"))
        assert found is not None
        assert found.chosen == "named"

    @pytest.mark.parametrize(
        ("placebo", "siblings", "said"),
        [
            (
                (0.01, -0.02, 0.04),
                [-0.3070, 0.5],
                ", clearly beyond the placebo's 0.01; siblings reach up to 50\u00a0% of it",
            ),
            ((-0.5, -0.6, -0.4), [0.1], ", not clearly beyond the placebo's −0.50; no sibling is taken out"),
            ((0.1, None, None), [], ""),
        ],
    )
    def test_nulls_beside_it_are_told(self, placebo: tuple[float, ...], siblings: list[float], said: str) -> None:
        null = {"writer": "L0H2", "eraser": VERDICT["eraser"], "of": "v_composed"}
        ends = dict(zip(("beta", "beta_low", "beta_high"), placebo, strict=True))
        rows = [{**null, "null": "placebo", **ends}, {**null, "null": "placebo", "of": "clean", "beta": -9.0}]
        rows += [{**null, "null": "siblings", "beta": beta} for beta in siblings]
        found = verdict_of(tables_of(eraser_group=[VERDICT], nulls=rows).tables, group_of("L0H2", "L2H2+L2H3"))
        assert found is not None
        assert verdict_line(found) == (
            f"L0H2 is erased by L2H2+L2H3: held-out pooled β −0.61 [−0.65, −0.57]{said}; position alone explains "
            "80\u00a0% of this erasure."
        )

    def test_heads_are_named_strongest_first(self) -> None:
        rows = [VERDICT | {"eraser": head, "beta": beta} for head, beta in (("L2H2", -0.1), ("L2H3", -0.5))]
        model = tables_of(eraser_group=[*rows, VERDICT])
        (target,) = verified_groups(model.tables)
        assert (target.label, pair_name(target)) == ("L2H2+L2H3", "L0H2 ← L2H3+L2H2")
        assert "is erased by L2H3+L2H2:" in verdict_list(model)

    def test_a_head_is_shown_before_embeddings(self) -> None:
        assert first_head(["pos_embed", "MLP0", "L1H1", "L0H0"]) == 2
        assert first_head(["pos_embed", "embed"]) == first_head([]) == 0

    def test_the_opening_lists_them_and_says_on_what(self, model: ModelTables, block: ModelTables) -> None:
        said = verdict_list(model)
        assert said.startswith("<p>Verified on prompts that the scan did not see")
        assert said.count("<li>") == len(verified_groups(model.tables))
        assert "no verdict on" in verdict_list(block)


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


class TestSignificant:
    def test_counts_found_beside_tested(self, model: ModelTables) -> None:
        layout = Layout(3, 3)
        readers = [w for w in layout.writers if w != "L1H1" and len(set(layout.heads) & set(_later(layout, w)))]
        pairs = sum(len(set(layout.heads) & set(_later(layout, writer))) for writer in readers)
        shown = significant([("m", model), ("older", fake_model("o", 2, 2, n_tokens=24, reading=True))])
        assert shown == [SignificantPairs("m", int(model.tables["v_composition"]["significant"].sum()), pairs)]
        figure = plot_significant([SignificantPairs("m", 12, 320)])
        assert figure.data[0].y == (12 / 320,)
        assert figure.data[0].text == ("12 of 320",)


def _later(layout: Layout, writer: str) -> list[str]:
    return [layout.terms[index] for index in layout.later_terms(writer)]


class TestStates:
    @pytest.mark.parametrize("patch", ["group", "layer"])
    @pytest.mark.parametrize("ends", BANDS)
    def test_values(self, model: ModelTables, patch: str, ends: tuple[str, str]) -> None:
        shown = patched_states(model, GROUP, patch, ends)
        assert shown is not None
        assert shown.states == list(Layout(3, 3).states)
        row = only(
            model.tables["patched_residual_projection"],
            writer="L0H1",
            eraser=GROUP.label,
            patch=patch,
            state="resid_mid2",
        )
        at = shown.states.index("resid_mid2")
        assert (shown.clean[at], shown.patched[at]) == (row["clean_median"], row["patched_median"])
        assert [values[at] for values in shown.patched_band] == [row[f"patched_{end}"] for end in ends]

    def test_figure_has_a_band_and_a_line_for_each_run(self, model: ModelTables) -> None:
        shown = patched_states(model, GROUP, "group", BANDS[0])
        assert shown is not None
        figure = plot_states(shown)
        assert [trace.fill for trace in figure.data] == ["toself", None, "toself", None]
        assert [figure.data[at].line.dash for at in (1, 3)] == ["solid", "dash"]
        np.testing.assert_allclose(figure.data[3].y, shown.patched, rtol=1e-6)

    def test_none_where_there_are_no_rows(self, model: ModelTables) -> None:
        assert patched_states(model, group_of("MLP2", "L2H0"), "group", BANDS[0]) is None


class TestGroup:
    def test_heads_then_the_group(self, model: ModelTables) -> None:
        shown = eraser_group(model, GROUP)
        assert shown is not None
        assert shown.labels == [*NAMED, GROUP.label]
        table = model.tables["eraser_group"]
        row = only(table, writer="L0H1", eraser=GROUP.label)
        assert shown.clean.median[-1] == row["clean_median"]
        assert shown.patched.q75[-1] == row["patched_q75"]
        assert shown.read.median.tolist() == [row["v_composed_median"]]
        assert "β of the nulls of the part read, pooled: shuffled" in shown.sentence

    def test_nulls_in_order_what_was_measured_left_out(self, model: ModelTables) -> None:
        nulls = group_nulls(model, GROUP)
        kinds = [null.kind for null in nulls]
        assert kinds == [
            "random_direction",
            "shuffled",
            "shuffled",
            "placebo",
            *["siblings"] * 4,
            "position",
            "position",
        ]
        assert {null.direction for null in nulls if null.kind == "siblings"} == {"L0H0", "L0H2"}
        row = only(model.tables["nulls"], writer="L0H1", eraser=GROUP.label, null="shuffled", of="clean")
        assert (nulls[1].of, nulls[1].median, nulls[1].beta) == ("clean", row["median"], row["beta"])

    def test_figure_marks_chance_hollow_and_position_by_a_star(self, model: ModelTables) -> None:
        shown = eraser_group(model, GROUP)
        assert shown is not None
        figure = plot_group(shown)
        symbols = {trace.name: trace.marker.symbol for trace in figure.data}
        assert symbols == {
            "as it is": "circle",
            "without reading the writer": "diamond",
            "the part read from the writer": "triangle-up",
            "null of the group as it is": "circle-open",
            "null of the part read": "triangle-up-open",
            "at equal position (no null)": "star",
        }
        ticks = [*NAMED, "<b>L1H0+<br>L2H1</b>", "random<br>direction", "shuffled", "placebo", "siblings"]
        assert list(figure.layout.xaxis.ticktext) == [*ticks, "position<br>alone"]
        (star,) = (trace for trace in figure.data if trace.marker.symbol == "star")
        assert round(float(star.x[0])) == 7
        hollow = next(trace for trace in figure.data if trace.marker.symbol == "circle-open")
        assert [round(float(x)) for x in hollow.x] == [3, 4, 6, 6]
        assert all(x != y for x, y in itertools.combinations(np.asarray(hollow.x).tolist(), 2))

    def test_of_many_heads_those_that_change_most(self) -> None:
        moved = {"L1H0": 0.1, "L1H1": -0.5, "L2H0": 0.3, "later": -0.1}
        rows = [
            {
                "writer": "embed",
                "group": "later",
                "eraser": label,
                "chosen": "all",
                "clean_median": value,
                "patched_median": 0.0,
            }
            for label, value in moved.items()
        ]
        shown = eraser_group(tables_of(eraser_group=rows), group_of("embed", "later"), most=2)
        assert shown is not None
        assert (shown.labels, shown.left_out) == (["L1H1", "L2H0", "later"], 1)
        figure = plot_group(shown)
        assert figure.layout.meta["sentence"].endswith("the 2 heads that change most; 1 others are left out.")
        assert list(figure.layout.xaxis.ticktext) == ["L1H1", "L2H0", "<b>all later</b>"]

    def test_a_group_of_many_heads_has_a_short_name(self) -> None:
        label = "L1H0+L1H1+L2H0+L2H1"
        row = {"writer": "embed", "group": label, "eraser": label, "clean_median": -0.4, "patched_median": 0.0}
        shown = eraser_group(tables_of(eraser_group=[row]), group_of("embed", row["eraser"]))
        assert shown is not None
        assert list(plot_group(shown).layout.xaxis.ticktext) == ["<b>all 4<br>together</b>"]

    def test_a_single_head_is_its_own_group(self) -> None:
        row = {"writer": "embed", "group": "L1H0", "eraser": "L1H0", "clean_median": -0.4, "patched_median": 0.0}
        shown = eraser_group(tables_of(eraser_group=[row, row]), group_of("embed", "L1H0"))
        assert shown is not None
        assert shown.labels == ["L1H0"]


class TestDla:
    def test_fits_are_verifys_alone_in_order(self, model: ModelTables) -> None:
        fits = dla_fits(model, GROUP)
        assert [fit.effect for fit in fits] == list(EFFECTS)
        table = model.tables["dla_correlation"]
        row = only(table, writer="L0H1", eraser=GROUP.label, effect="value_input", stage="verify")
        fit = fits[2]
        assert (fit.r, fit.slope, fit.slope_low, fit.intercept, fit.n) == (
            *(row["r"], row["slope"], row["slope_low"], row["intercept"]),
            96,
        )
        # prompts of twelve tokens have no position 32
        assert fits[-1].n == 0

    def test_cloud_and_its_lines(self, model: ModelTables) -> None:
        shown = dla_cloud(model, GROUP, "v_composition")
        assert shown is not None
        table = model.tables["dla_points"]
        rows = table[
            (table["writer"] == "L0H1") & (table["eraser"] == GROUP.label) & (table["effect"] == "v_composition")
        ]
        np.testing.assert_array_equal(shown.x, rows["writer_dla"])
        tokens, perfect, best = plot_cloud(shown).data
        assert len(tokens.x) == 96
        np.testing.assert_allclose(np.asarray(perfect.y), -np.asarray(perfect.x))
        slope = (best.y[1] - best.y[0]) / (best.x[1] - best.x[0])
        assert slope == pytest.approx(shown.fit.slope, rel=1e-4)
        assert dla_cloud(model, GROUP, "without_pattern") is None

    def test_of_many_points_an_even_sample(self) -> None:
        keys = {"writer": "L0H0", "eraser": "L1H0", "effect": "full"}
        rows = [{**keys, "writer_dla": float(i), "eraser_dla": -i, "prompt": i, "position": 0} for i in range(2001)]
        shown = dla_cloud(tables_of(dla_points=rows), group_of("L0H0", "L1H0"), "full")
        assert shown is not None
        assert shown.x.tolist()[:3] == [0.0, 2.0, 4.0]
        assert (len(shown.x), shown.x[-1]) == (1000, 2000.0)
        figure = plot_cloud(shown)
        assert [trace.name for trace in figure.data] == ["token", "perfect erasure (slope −1)"]
        assert "no line was fitted" in figure.layout.meta["sentence"]

    def test_the_line_in_words(self, model: ModelTables) -> None:
        fit = dla_fits(model, GROUP)[0]._replace(slope=-0.613, intercept=-0.0521)
        assert line_words(fit) == "−0.61 x − 0.05"

    @pytest.mark.parametrize(
        ("slope", "low", "high", "said"),
        [
            (-0.2, -0.49, 0.11, "No reliable relation (slope −0.20, its interval [−0.49, 0.11] includes 0)."),
            (-0.2, -0.3, -0.1, "The erasers take back 0.20 of each logit."),
            (0.2, 0.1, 0.3, "The erasers add 0.20 of each logit."),
            (-0.2, np.nan, np.nan, "The erasers take back 0.20 of each logit."),
        ],
    )
    def test_a_slope_that_may_be_zero_is_no_relation(
        self, model: ModelTables, slope: float, low: float, high: float, said: str
    ) -> None:
        shown = dla_cloud(model, GROUP, "full")
        assert shown is not None
        fit = shown.fit._replace(slope=slope, slope_low=low, slope_high=high)
        assert plot_cloud(shown._replace(fit=fit)).layout.meta["sentence"].endswith(said)

    def test_table_has_every_effect_of_every_target(self, model: ModelTables, block: ModelTables) -> None:
        shown = dla_effects_table(ModelView(model))
        assert len(shown.rows) == len(EFFECTS) * len(verified_groups(model.tables))
        intervals = {row[3] for row in dla_effects_table(ModelView(block)).rows}
        assert intervals == {None}


class TestAdversarial:
    def test_found_places_hardest_first_with_the_other_head(self, model: ModelTables) -> None:
        table = model.tables["adversarial"]
        writer = str(table["writer"].iloc[0])
        shown = adversarial_places(model, writer, "found", "last")
        assert shown is not None
        assert [prompt.rank for prompt in shown.prompts] == [1, 2, 3, 4, 5, 6]
        keys = {"writer": writer, "source": "found", "inputs": "last", "prompt": shown.prompts[0].prompt}
        own, other = only(table, **keys, role="writer"), only(table, **keys, role="other")
        assert (shown.own.clean[0], shown.own.median[0]) == (own["clean"], own["median"])
        assert (shown.other.components[0], shown.other.q87_5[0]) == (other["component"], other["q87_5"])
        # other inputs have no ranks of their own
        others = adversarial_places(model, writer, "found", "all", most=2)
        assert others is not None
        assert others.left_out == 4

    def test_given_places_as_they_were_given(self, model: ModelTables) -> None:
        writer = str(model.tables["adversarial"]["writer"].iloc[0])
        shown = adversarial_places(model, writer, "given", "all")
        assert shown is not None
        assert [prompt.prompt for prompt in shown.prompts] == [0, 1, 2, 3]
        figure = plot_places(shown)
        assert [trace.yaxis for trace in figure.data] == ["y2", "y2", "y", "y"]
        np.testing.assert_allclose(figure.data[1].y, shown.own.median, rtol=1e-6)
        np.testing.assert_allclose(figure.data[1].error_y.array, shown.own.q87_5 - shown.own.median, rtol=1e-4)
        assert list(figure.data[2].text) == shown.other.components

    def test_tokens_and_texts_are_readable_and_escaped(self, model: ModelTables, block: ModelTables) -> None:
        assert token_words("\n\tif", 5) == "↵⇥if"
        assert token_words(None, 17.0) == "#17"
        assert tail_words("a" * 300) == "… " + "a" * 240
        assert tail_words(None) == ""
        table = adversarial_table(ModelView(model))
        assert len(table.rows) == len(model.tables["adversarial"]) // 2
        texts = [row[4] for row in table.rows]
        assert not any("<i>" in shown for shown in texts)
        assert any("&lt;i&gt;" in shown for shown in texts)
        assert {row[4] for row in adversarial_table(ModelView(block)).rows} == {None}

    def test_the_table_has_the_order_of_the_figure(self, model: ModelTables) -> None:
        shuffled = model.tables["adversarial"].sample(frac=1, random_state=0)
        given = shuffled["source"] == "given"
        model = ModelTables({}, {"adversarial": pd.concat([shuffled[~given], shuffled[given]])})
        writers = dict.fromkeys(model.tables["adversarial"]["writer"])
        rows = [(row[0], row[2]) for row in adversarial_table(ModelView(model)).rows if row[1] == "writer"]
        expected = []
        for writer in writers:
            for source in ("given", "found"):
                shown = adversarial_places(model, writer, source, "last")
                assert shown is not None
                expected += [(writer, f"{source} {prompt.prompt}") for prompt in shown.prompts]
        of_found = [row for row in rows if row[1].startswith("found")]
        assert of_found == [row for row in expected if row[1].startswith("found")]
        assert [row[1][:5] for row in rows] == [row[1][:5] for row in expected]

    def test_embeddings_say_what_replacing_inputs_can_show(self) -> None:
        assert by_construction("pos_embed").endswith("0\u00a0% by construction.")
        assert "nothing but the token" in by_construction("embed")
        assert by_construction("L0H0") == by_construction("MLP0") == ""

    def test_readable_texts_reach_the_figure_escaped(self, model: ModelTables) -> None:
        writer = str(model.tables["adversarial"]["writer"].iloc[0])
        for source in ("given", "found"):
            shown = adversarial_places(model, writer, source, "last")
            assert shown is not None
            assert "<i>" not in plot_places(shown).to_json()


class TestRest:
    def test_profile_is_in_bins(self, model: ModelTables) -> None:
        shown = position_profile(model, GROUP)
        assert shown is not None
        assert shown.bins == ["0", "1", "2–3", "4–7", "8–11"]
        row = only(model.tables["position_profile"], writer="L0H1", eraser=GROUP.label, first_position=4)
        assert (shown.patched.median[3], shown.norm[3]) == (row["patched_median"], row["writer_norm"])
        *lines, bars = plot_profile(shown).data
        assert {trace.yaxis for trace in lines} == {"y2"}
        np.testing.assert_allclose(bars.y, shown.norm, rtol=1e-6)

    def test_mlps_behind_the_writer(self, model: ModelTables) -> None:
        shown = mlp_erasers(model, "L0H1")
        assert shown is not None
        assert shown.labels == ["MLP0", "MLP1", "MLP2"]
        row = only(model.tables["mlp_erasure"], writer="L0H1", component="MLP1")
        assert (shown.runs["read"].q25[1], shown.beta[1]) == (row["read_q25"], row["beta"])
        assert [trace.name for trace in plot_mlps(shown).data][2] == "the part read from the writer"
        nothing = shown._replace(beta=np.array([0.1, -0.001, np.nan]))
        assert plot_mlps(nothing).layout.meta["sentence"] == "No MLP writes against L0H1 because it reads it."

    def test_later_use_is_in_stream_order_and_bounded(self, model: ModelTables) -> None:
        shown = later_use(model, GROUP)
        assert shown is not None
        assert shown.labels == ["MLP2"]
        keys = {"writer": "embed", "eraser": "L0H0"}
        rows = [
            {**keys, "component": f"MLP{i}", "clean_median": 0.0, "patched_median": 0.0, "clean_beta": i % 7}
            for i in reversed(range(50))
        ]
        many = later_use(tables_of(later_use=rows), group_of("embed", "L0H0"))
        assert many is not None
        assert (len(many.labels), many.left_out) == (40, 10)
        assert [int(label[3:]) for label in many.labels] == sorted(int(label[3:]) for label in many.labels)
        assert "the 40 with the largest β; 10 others" in plot_later_use(many).layout.meta["sentence"]

    def test_tables(self, model: ModelTables) -> None:
        (named,) = (group for group in verified_groups(model.tables) if group[:2] == GROUP[:2])
        carried = [row for row in carries_table(ModelView(model)).rows if row[0] == pair_name(named)]
        assert [row[1] for row in carried] == [
            "its whole output",
            "read from the first token",
            "read from all other tokens",
        ]
        whole = only(model.tables["carries"], writer="L0H1", eraser=GROUP.label, part="all")
        assert carried[0][2:] == [
            *(
                whole[name]
                for name in ("power_share", "variance", "position_share", "token_share", "erased_by_reading")
            ),
            96,
        ]
        writers = set(model.tables["nulls"]["writer"])
        assert {row[0] for row in loss_table(ModelView(model)).rows} == writers
        aligned = aligned_table(ModelView(model)).rows
        assert len(aligned) == 30 * len(writers)
        assert not any("<b>" in row[2] for row in aligned)

    def test_many_heads_have_short_names(self) -> None:
        seven = [f"L2H{i}" for i in range(7)]
        assert pair_name(group_of("L0H2", "+".join(seven[:6]))) == "L0H2 ← L2H0+L2H1+L2H2+L2H3+L2H4+L2H5"
        assert pair_name(group_of("L0H2", "+".join(seven))) == "L0H2 ← L2H0+…+L2H6 (7 heads)"
        assert eraser_name("later") == "all later"


def _numbers(table: pd.DataFrame) -> list[str]:
    return [column for column in table if pd.api.types.is_float_dtype(table[column])]


def _keys(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column not in (*_numbers(table), "writer", "eraser")]


LESS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "no rows": lambda table: table.iloc[:0],
    "no columns": lambda table: pd.DataFrame(),
    "null numbers": lambda table: table.assign(**dict.fromkeys(_numbers(table), None)),
    "infinite": lambda table: table.assign(**dict.fromkeys(_numbers(table), np.inf)),
    "null keys": lambda table: table.assign(**dict.fromkeys(_keys(table), None)),
    "only writers": lambda table: table[["writer"]],
    "twice": lambda table: pd.concat([table, table]),
}
"""Ways in which a table can be less, or more, than the contract says."""


class TestCards:
    def test_a_scan_has_one_that_says_so(self) -> None:
        (card,) = verify_cards(fake_model("scan", 2, 2, n_tokens=24, reading=True))
        assert isinstance(card, Card)
        assert (card.figures, card.empty) == ({}, NOT_VERIFIED)

    @pytest.mark.parametrize("fixture", ["model", "block"])
    def test_every_choice_has_its_figure(self, fixture: str, request: pytest.FixtureRequest) -> None:
        for card in verify_cards(request.getfixturevalue(fixture)):
            if isinstance(card, Card):
                choices = itertools.product(*(range(len(control.options)) for control in card.controls))
                assert sorted(card.figures) == sorted(".".join(map(str, choice)) for choice in choices), card.key
                first = ".".join(str(control.chosen) for control in card.controls)
                assert card.figures[first].data, card.key
            else:
                assert _content(card), card.key

    def test_a_choice_without_tokens_says_so(self, model: ModelTables) -> None:
        card = next(card for card in verify_cards(model) if card.key == "dla-points")
        assert isinstance(card, Card)
        # prompts of twelve tokens have no position 32, so there is not even the choice
        assert list(card.controls[1].options) == list(EFFECTS.values())[:-1]
        points = model.tables["dla_points"].query("effect != 'full' or writer == 'L0H1'")
        one = ModelTables(model.about, {**model.tables, "dla_points": points})
        card = next(card for card in verify_cards(one) if card.key == "dla-points")
        assert isinstance(card, Card)
        said = [figure.layout.annotations[0].text for figure in card.figures.values() if not figure.data]
        assert set(said) == {"This was not measured."}
        assert len(said) == len({target for target in verified_groups(model.tables) if target.writer != "L0H1"})

    @pytest.mark.parametrize("case", LESS)
    @pytest.mark.parametrize("first", [0, 1])
    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_less_of_half_the_tables_leaves_the_rest(self, block: ModelTables, case: str, first: int) -> None:
        changed = [*VERIFY_TABLES, "dla_correlation"][first::2]
        less = ModelTables(block.about, block.tables | {name: LESS[case](block.tables[name]) for name in changed})
        assert len(verify_cards(less)) == 13
        trust_table(ModelView(less))
        verdict_list(less)

    @pytest.mark.parametrize("name", VERIFY_TABLES)
    def test_a_table_alone_is_shown(self, block: ModelTables, name: str) -> None:
        alone = ModelTables(block.about, {name: block.tables[name]})
        parts = [*verify_cards(alone), *MODEL.parts(ModelView(alone), {"trust"})]
        shown = [part.key for part in parts if _content(part)]
        keys = {"eraser_group": ["eraser-group"], "nulls": ["eraser-group"], "dla_trust": ["trust"]}
        keys |= {"patched_residual_projection": ["patched-states"], "mlp_erasure": ["mlp-erasers"]}
        keys |= {"adversarial": ["adversarial", "adversarial-prompts"]}
        assert shown == keys.get(name, [name.replace("_", "-")])
        verdict_list(alone)

    def test_figures_are_plain_json(self, block: ModelTables) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        for card in verify_cards(block):
            for figure in card.figures.values() if isinstance(card, Card) else ():
                json.loads(figure.to_json(), parse_constant=refuse)
