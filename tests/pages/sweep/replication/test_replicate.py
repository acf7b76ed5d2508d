"""Published against measured: the numbers as data, their counterparts in tables, and the report."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from erasure_sweep.sweep.config import load_config
from erasure_sweep.sweep.replication.matching import EFFECTS, MEASURES, Comparison, Results, as_table, compare
from erasure_sweep.sweep.replication.published_numbers import PUBLISHED, STATISTICS, published
from erasure_sweep.sweep.replication.replicate import replication_config
from erasure_sweep.sweep.replication.report import Section, markdown, sections, show
from erasure_sweep.workers.errors import UsageError
from tests.support.fakes.published_tables import GROUP, RULE, published_tables, results
from tests.support.models.random_models import write_hf_gpt2_directory, write_tl_directory
from tests.support.paths import ROOT


def of(comparisons: list[Comparison], number: str, **where: str) -> list[Comparison]:
    """Comparisons of the numbers that begin like this, where fields of the entry are as said."""
    return [
        c
        for c in comparisons
        if c.entry.number.startswith(number) and all(getattr(c.entry, key) == value for key, value in where.items())
    ]


def printed(found: list[Section]) -> str:
    stream = StringIO()
    show(found, Console(file=stream, width=120, color_system=None))
    return stream.getvalue()


def report_of(measured: Results) -> list[Section]:
    return sections(measured, compare(measured), "OUT/replication.csv")


class TestPublished:
    def test_residual_projections_are_of_all_components_and_states(self):
        table = published().residual_projection
        assert len(table) == 36 * 9
        assert not table.duplicated(["writer", "state"]).any()
        assert set(table["writer"]) == {f"L{i}H{j}" for i in range(4) for j in range(8)} | {f"MLP{i}" for i in range(4)}
        assert (table["q25"] < table["median"]).all()
        assert (table["median"] < table["q75"]).all()

    def test_numbers_are_the_publications(self):
        texts = {(n.where, n.measure, n.statistic): n.value for n in published().numbers if len(n.effects) != 1}
        assert texts == {
            ("paper 3.2", "group_sum", "q25"): -1.128,
            ("paper 3.2", "group_sum", "median"): -0.907,
            ("paper 3.2", "group_sum", "q75"): -0.700,
            ("post", "group_sum", "median"): -0.903,
            ("paper 3.3", "state_clean", "median"): 0.12,
            ("paper 3.3", "state_patched", "median"): 0.91,
            ("paper 3.3", "share_by_v_composition", None): 0.85,
            ("paper 3.2", "eraser_list", None): ("L2H2", "L2H3", "L2H4", "L2H5", "L2H6", "L2H7"),
            ("paper 3.4", "dla", "r"): -0.702,
            ("paper 3.4", "dla", "slope"): -0.613,
            ("paper 3.4", "dla", "intercept"): 0.001,
        }
        lines = {(n.where, *n.effects, n.statistic): n.value for n in published().numbers if len(n.effects) == 1}
        assert lines == {
            ("post", "v_composition", "r"): -0.716,
            ("post", "full", "r"): -0.159,
            ("repository", "without_pattern", "slope"): -0.723,
            ("repository", "without_pattern", "intercept"): 0.052,
        }
        assert [prompt.logit_diff for prompt in published().prompts] == [1.07, 1.89, 3.02, 0.94]

    def test_each_can_be_measured(self):
        for entry in published().numbers:
            assert entry.measure in MEASURES
            assert set(entry.effects) <= set(EFFECTS)
            assert entry.known

    def test_the_preset_measures_under_the_published_protocol(self):
        preset = load_config("paper").model_dump()
        assert {key: preset[key] for key in published().protocol} == published().protocol
        assert preset["adversarial_prompts"] == [prompt.text for prompt in published().prompts]

    def test_the_files_are_packaged(self):
        packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
        patterns = packaged["erasure_sweep.sweep.replication"]
        files = [path.name for path in PUBLISHED.iterdir()]
        assert len(files) == 3
        assert all(any(fnmatch(f"published/{name}", pattern) for pattern in patterns) for name in files)


class TestComparison:
    def test_what_came_out_as_published_agrees(self):
        found = compare(results())
        counted = [c for c in found if c.counts]
        # eight of erasure, four lines of one meaning, sixteen of the prompts, and the table
        assert len(counted) == 8 + 4 + 16 + 36 * 9 * 3
        assert all(c.agrees for c in counted)
        assert max(abs(c.difference) for c in counted if c.entry.topic == "residual") == 0

    def test_a_number_that_came_out_otherwise_is_the_only_one_that_disagrees(self):
        tables = published_tables()
        states = tables["patched_residual_projection"]
        states.loc[(states["state"] == "resid_mid2") & (states["patch"] == "layer"), "patched_median"] = 0.889
        wrong = [c for c in compare(results(tables)) if c.counts and not c.agrees]
        assert [(c.entry.number, c.found.measured) for c in wrong] == [("PR of resid_mid2 onto L0H2, patched", 0.889)]
        assert wrong[0].difference == pytest.approx(-0.021)

    def test_a_difference_of_the_tolerance_itself_agrees(self):
        tables = published_tables()
        states = tables["residual_projection"]
        states.loc[(states["writer"] == "L0H2") & (states["state"] == "resid_mid2"), "median"] = 0.14
        found = of(compare(results(tables)), "PR of resid_mid2 onto L0H2, clean")
        assert found[0].agrees
        assert not of(compare(results(tables)), "L0H2 in resid_mid2", statistic="median")[0].agrees  # 0.103 there

    def test_scanned_prompts_count_and_others_stand_beside(self):
        found = of(compare(results()), "PR of the six heads' sum", statistic="median", where="paper 3.2")
        assert [(c.found.prompts, c.counts) for c in found] == [("scan", True), ("held out", False)]
        assert (found[0].found.low, found[0].found.n) == (None, 307_200)
        assert (found[1].found.low, found[1].found.high) == (-0.92, -0.89)

    def test_prompts_that_were_scanned_are_said_to_be(self):
        found = of(compare(results(published_tables(held_out=False))), "PR of resid_mid2 onto L0H2, patched")
        assert {c.found.prompts for c in found} == {"scan, again"}

    def test_another_group_that_the_rule_finds_has_no_difference(self):
        found = of(compare(results(published_tables(RULE))), "PR of the six heads' sum", statistic="q25")
        rule = next(c for c in found if c.found.variant == "rule's heads")
        assert rule.found.measured == -1.128
        assert (rule.difference, rule.agrees, rule.counts) == (None, None, False)
        rules = [c.found for c in compare(results(published_tables(RULE))) if "rule's heads" in c.found.variant]
        assert len(rules) > 10 and all(found.measured is not None for found in rules)

    def test_the_same_group_is_not_shown_twice(self):
        assert not [c for c in compare(results(published_tables(GROUP))) if "rule's heads" in c.found.variant]

    def test_the_papers_line_stands_beside_every_ablation_and_none_counts(self):
        found = of(compare(results()), "an ablation", statistic="slope")
        assert {c.found.variant: c.found.measured for c in found} == {
            EFFECTS["v_composition"]: -0.6,
            EFFECTS["value_input"]: -0.613,
            EFFECTS["layer_input"]: -0.55,
            EFFECTS["downstream"]: -0.4,
        }
        assert [c.found.prompts for c in found] == ["scan", *["held out"] * 4]
        assert not any(c.counts for c in found)
        assert (found[2].found.low, found[2].found.high) == (-0.613 - 0.02, -0.613 + 0.02)

    def test_share_is_of_what_is_taken_between_the_two_states(self):
        found = of(compare(results()), "share that depends")[0]
        assert found.found.measured == pytest.approx((0.91 - 0.12) / (1.02 - 0.12))

    def test_share_is_undefined_where_nothing_is_taken(self):
        tables = published_tables()
        tables["patched_residual_projection"]["clean_median"] = 1.0
        found = of(compare(results(tables)), "share that depends")[0]
        assert found.found.measured is None
        assert found.found.why_not == "undefined: nothing is taken away between the two states"

    def test_erasers_are_a_list(self):
        tables = published_tables(readers="L2H2+L3H1")
        component = tables["component_projection"]
        component.loc[component["component"] == "L2H7", "q75"] = 0.01
        by_paper, by_rule = of(compare(results(tables)), "heads that erase")
        assert by_paper.found.measured == "L2H2 L2H3 L2H4 L2H5 L2H6"
        assert by_paper.agrees is False
        assert by_rule.found.measured == "L2H2 L3H1"

    def test_no_eraser_is_a_finding(self):
        by_rule = of(compare(results(published_tables(readers=""))), "heads that erase")[1]
        assert (by_rule.found.measured, by_rule.agrees, by_rule.found.why_not) == ("none", False, None)

    def test_other_tokens_and_heads_disagree(self):
        tables = published_tables()
        places = tables["adversarial"]
        places.loc[(places["prompt"] == 1) & (places["role"] == "other"), "component"] = "L1H1"
        places.loc[places["prompt"] == 2, "logit_diff"] = 3.04
        wrong = [c for c in compare(results(tables)) if c.agrees is False and c.entry.topic == "adversarial"]
        assert [(c.found.variant, c.found.measured) for c in wrong] == [("prompt 2", "L1H1"), ("prompt 3", 3.04)]

    def test_what_is_null_has_a_reason(self):
        tables = published_tables()
        tables["dla_correlation"]["r"] = np.nan
        lines = [c for c in compare(results(tables)) if c.entry.topic == "dla" and c.entry.statistic == "r"]
        assert len(lines) == 5 + 2 + 2
        assert {c.found.why_not for c in lines} == {
            "null in the table: too few tokens or shards, or nothing that varies"
        }
        assert all(c.agrees is None for c in lines)

    def test_prompts_without_a_tokenizer_have_a_reason(self):
        found = [c for c in compare(results(adversarial_prompts=[])) if c.entry.topic == "adversarial"]
        assert len(found) == 16
        assert {c.found.why_not for c in found} == {
            "not measured: the prompts are text, and the model has no tokenizer"
        }

    def test_of_another_model_nothing_agrees_or_disagrees(self):
        measured = results(about={"name": "gpt2", "spec": "gpt2"})
        assert measured.same_model is False
        assert {c.agrees for c in compare(measured)} == {None}

    def test_a_directory_of_the_same_shape_may_be_the_model(self):
        shape = {"n_layers": 4, "n_heads": 8, "d_model": 512, "d_head": 64, "d_mlp": 2048, "d_vocab": 48262}
        about = {"spec": "weights/gelu", **shape, "act_fn": "gelu", "attn_only": False}
        assert results(about=about).same_model is None
        assert results(about=about | {"d_model": 256}).same_model is False
        assert results(about={"spec": "NeelNanda/GELU_4L512W_C4_Code"}).same_model is True

    def test_the_table_has_a_row_for_each(self):
        found = compare(results())
        table = as_table(found)
        assert len(table) == len(found)
        assert list(table.columns[:5]) == ["topic", "number", "statistic", "where", "published"]
        assert table.loc[table["topic"] == "residual", "statistic"].tolist() == [*STATISTICS] * 36 * 9


class TestReport:
    @pytest.mark.parametrize("rule", [GROUP, RULE])
    def test_fits_a_plain_terminal(self, rule: str):
        lines = printed(report_of(results(published_tables(rule)))).splitlines()
        assert max(map(len, lines)) <= 120
        assert not any("…" in line for line in lines)

    def test_says_how_much_agrees(self):
        text = printed(report_of(results()))
        assert "28 of 28 numbers of the texts agree within tolerance." in text
        assert "972 of 972 entries of the table agree within tolerance." in text
        assert "Not measured" not in text
        assert "Not the published protocol" not in text

    def test_another_model_is_said_to_be_one(self):
        text = printed(report_of(results(about={"name": "gpt2", "spec": "gpt2"})))
        assert "the differences below say nothing about the published numbers" in " ".join(text.split())
        assert "agree within tolerance" not in text

    def test_another_protocol_is_said_to_be_one(self):
        text = " ".join(printed(report_of(results(prompts=8, corpus="stdlib"))).split())
        assert "Not the published protocol: corpus stdlib (published: gelu-mix); prompts 8 (published: 300)." in text

    def test_leaving_out_the_first_position_is_another_protocol(self):
        text = " ".join(printed(report_of(results(first_position=False))).split())
        assert "Not the published protocol: first_position False (published: True)." in text

    def test_worst_entries_are_those_that_differ_most(self):
        tables = published_tables()
        states = tables["residual_projection"]
        states.loc[(states["writer"] == "MLP1") & (states["state"] == "resid_mid3"), "q75"] += 0.5
        states.loc[(states["writer"] == "L0H5") & (states["state"] == "resid_pre0"), "q25"] -= 0.1
        found = next(s for s in report_of(results(tables)) if "differ most" in s.title)
        assert [(row[0], row[1], row[-1]) for row in found.rows] == [
            ("MLP1 in resid_mid3", "q75", "+0.500"),
            ("L0H5 in resid_pre0", "q25", "−0.100"),
        ]

    def test_residuals_in_short(self):
        tables = published_tables()
        tables["residual_projection"]["median"] += np.where(np.arange(324) < 81, 0.1, 0.01)
        found = next(s for s in report_of(results(tables)) if s.title.startswith("Residual projections"))
        assert found.rows[1] == ("median", "324", "0.010", "0.100", "75\u00a0%")

    def test_missing_numbers_are_listed_by_reason(self):
        tables = published_tables()
        tables["v_composition"] = tables["v_composition"].assign(clean_q25=np.nan)
        found = next(s for s in report_of(results(tables, adversarial_prompts=[])) if s.title == "Not measured")
        assert found.notes == [
            "null in the table: too few tokens or shards, or nothing that varies: PR of the six heads' sum onto L0H2, q25 "
            "(six heads).",
            "not measured: the prompts are text, and the model has no tokenizer: 16 numbers of the adversarial prompts.",
        ]

    def test_tokens_are_shown_as_they_are(self):
        tables = published_tables()
        tables["adversarial"]["top"] = "[red]|x[/red]"
        found = report_of(results(tables))
        assert "'[red]|x[/red]'" in printed(found)
        assert r"'[red]\|x[/red]'" in markdown(found)

    def test_markdown_has_every_section(self):
        found = report_of(results())
        lines = markdown(found).splitlines()
        assert [line.lstrip("# ") for line in lines if line.startswith("#")] == [section.title for section in found]
        rows = [line for line in lines if line.startswith("|")]
        assert len(rows) == sum(len(section.rows) + 2 for section in found if section.rows)

    def test_adversarial_prompts_say_what_stays(self):
        found = [s for s in report_of(results()) if s.title.startswith("Adversarial")]
        assert found[1].rows[:2] == [
            ("1", "L0H2", "L0H2", "1.00", "0.98 [0.68, 1.28]", "0.98 [0.68, 1.28]", "2\u00a0%"),
            ("1", "L3H1", "L3H1", "1.00", "0.10 [−0.20, 0.40]", "0.10 [−0.20, 0.40]", "90\u00a0%"),
        ]
        assert "' bottom' 1, ' State' 3, ' __' not, ' Church' not" in found[1].notes[-1]


class TestConfig:
    def test_is_the_published_protocol_with_writer_and_erasers(self):
        config = replication_config({"models": None, "prompts": None})
        assert (config.models, config.prompts, config.seq_len, config.positions) == (["gelu-4l"], 300, 1024, "all")
        assert [(g.writer, g.label) for g in config.groups] == [("L0H2", GROUP)]
        assert config.stage == "all"
        assert len(config.adversarial_prompts) == 4

    def test_flags_go_on_top(self, tmp_path: Path):
        model = str(write_tl_directory(tmp_path / "m", n_layers=4, n_heads=8))
        config = replication_config({"models": [model], "prompts": 8, "out": "there"})
        assert (config.models, config.prompts, config.out) == ([model], 8, "there")
        assert config.adversarial_prompts == []  # the directory has no tokenizer

    @pytest.mark.parametrize(
        ("shape", "found"),
        [
            ({"n_layers": 3, "n_heads": 8}, "3 layers of 8 heads"),
            ({"n_layers": 4, "n_heads": 4}, "4 layers of 4 heads"),
            ({"n_layers": 1, "n_heads": 1}, "1 layer of 1 head;"),
            ({"n_layers": 4, "n_heads": 8, "attn_only": True}, "no MLPs"),
        ],
    )
    def test_a_model_that_lacks_what_was_published_is_refused(self, shape: dict[str, int], found: str, tmp_path: Path):
        model = str(write_tl_directory(tmp_path / "m", **shape))
        with pytest.raises(UsageError, match=f"has {found}.*`erasure-sweep run --model {model}`$"):
            replication_config({"models": [model]})

    def test_hugging_faces_layout_is_read_as_well(self, tmp_path: Path):
        model = str(write_hf_gpt2_directory(tmp_path / "m", n_layers=2, n_heads=4))
        with pytest.raises(UsageError, match="has 2 layers of 4 heads"):
            replication_config({"models": [model]})

    def test_checkpoints_are_looked_up_without_a_hub(self):
        config = replication_config({"models": ["gelu-4l@-1"]})
        assert config.models == ["gelu-4l@-1"]
        assert len(config.adversarial_prompts) == 4

    @pytest.mark.parametrize("point", ["all", "log:3"])
    def test_several_checkpoints_are_refused(self, point: str):
        with pytest.raises(UsageError, match=f"^toy-gelu-4l@{point} names several models: replicate measures one"):
            replication_config({"models": [f"toy-gelu-4l@{point}"]})

    def test_an_unknown_model_is_refused_with_the_nearest(self):
        with pytest.raises(UsageError, match=r"did you mean .*gelu-4l"):
            replication_config({"models": ["gelu-4"]})


def test_tables_of_the_writer_alone_are_read():
    tables = published_tables()
    for name in ("eraser_group", "dla_correlation", "v_composition", "writers"):
        other = tables[name].assign(writer="L0H1", **dict.fromkeys(tables[name].select_dtypes("float").columns, 9.0))
        tables[name] = pd.concat([other, tables[name]], ignore_index=True)
    assert compare(results(tables)) == compare(results())
