"""Pages as files: complete, self-contained, escaped, and never a crash on what is missing."""

from __future__ import annotations

import html
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.pages import (
    comparison_page_parts,
    model_parts,
    write_comparison,
    write_figures,
    write_model_page,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_manifest, fake_model, model_tables
from tests.support.fakes.written_pages import NASTY, broken, comparison, embedded, model_page, sections, without_plotly

VERIFY_PARTS = [
    *("patched-states", "eraser-group", "dla-points", "dla-effects", "adversarial", "adversarial-prompts"),
    *("position-profile", "mlp-erasers", "later-use", "carries", "ablation-loss", "aligned-tokens", "mediation"),
]
OPENING = ["trust", "erased", "causal", "presence", "ledger"]
CARDS = ["presence", "layers", "onto", "heatmaps", "ledger"]
READING_CARDS = ["patched", "erased", "causal", "dla"]


@pytest.fixture(scope="module")
def small() -> ModelTables:
    return fake_model("small", 2, 3, seed=2, n_tokens=24, zero=("L1H1",))


@pytest.fixture(scope="module")
def reading() -> ModelTables:
    """A run that measured V-composition and DLA too."""
    return fake_model("reading", 3, 3, seed=3, n_tokens=24, zero=("L1H1",), reading=True)


def less_reading(model: ModelTables) -> dict[str, dict[str, pd.DataFrame]]:
    """Ways in which the tables of V-composition and DLA can be less than the contract says."""
    tables = model.tables
    names = ["v_composition", "dla_correlation"]
    numbers = ["erased", "erased_centred", "v_composition_share", "dla_r", "dla_slope", "rank"]
    return {
        "no rows": {**tables, **{name: tables[name].iloc[:0] for name in names}},
        "no columns": {**tables, **dict.fromkeys(names, pd.DataFrame())},
        "no heads": {**tables, **{name: tables[name][tables[name]["eraser"] == "later"] for name in names}},
        "no sums": {**tables, **{name: tables[name][tables[name]["eraser"].str.startswith("L")] for name in names}},
        "one effect": {**tables, names[1]: tables[names[1]][tables[names[1]]["effect"] == "full"]},
        "all null": {**tables, **{name: _nulls(tables[name]) for name in names}},
        "no ranks": {**tables, "writers": tables["writers"].assign(**dict.fromkeys(numbers, None), erasers=None)},
        "no lists": {**tables, "writers": tables["writers"].drop(columns=["erasers", "opposing"])},
        "infinite": {name: table.replace({1.0: np.inf}) for name, table in tables.items()},
    }


def _nulls(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: None for name in table.columns if pd.api.types.is_float_dtype(table[name])}, n=0)


class TestModelPage:
    def test_holds_every_figure_and_one_plotly(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        assert page.count("plotly.js v") == 1
        # two embeddings, six heads and two MLPs less the zero head; beside each alone the most opposed together
        sizes = {"presence": 10, "layers": 3, "onto": 9, "heatmaps": 2, "ledger": 18}
        assert {card: len(embedded(page, card)) for card in CARDS} == sizes

    def test_fetches_nothing(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        assert "default-src 'none'" in page
        assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", without_plotly(page)) == []
        assert re.findall(r"https?:", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)) == []

    def test_says_what_was_measured(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        assert "Measured on 8 prompts of 12 tokens, every position (24 tokens), corpus stdlib, seed 5235" in page
        assert "2 layers of 3 heads (width 200), 960,000 parameters." in page
        assert "<h1>Erasure in small</h1>" in page

    def test_every_writer_has_its_row(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
        writers = small.tables["writers"].set_index("writer")
        assert sorted(name for name, _ in rows) == sorted(writers.index)
        cells = dict(rows)
        written = writers.loc["pos_embed", "written"]
        assert f'data-value="{float(written)!r}"' in cells["pos_embed"]
        assert cells["L1H1"].count('data-value=""') == 5

    def test_controls_offer_the_writers(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        options = re.findall(r'<select data-control="onto"[^>]*>(.*?)</select>', page)[0]
        measured = small.tables["writers"].dropna(subset="opposed").sort_values("opposed")["writer"].tolist()
        assert re.findall(r"<option[^>]*>(.*?)</option>", options) == measured
        slider = re.findall(r'data-control="layers"[^>]* data-steps="(.*?)"', page)[0]
        assert json.loads(html.unescape(slider)) == ["embeddings", "layer 0", "layer 1"]

    def test_a_failed_model_says_why(self, small: ModelTables, tmp_path: Path) -> None:
        failed = model_tables({**small.about.to_json(), "state": "FAILED", "reason": "no room on disk"}, {})
        page = model_page(failed, tmp_path)
        assert "not measured in full (failed: no room on disk)" in page

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_says_what_is_missing(self, small: ModelTables, case: str, tmp_path: Path) -> None:
        page = model_page(model_tables(small.about, broken(small)[case]), tmp_path)
        missing = re.findall(r'<p class="note">(.*?)</p>', page)
        expected = {"only writers": 5, "only residual": 3, "only components": 4, "infinite": 0}
        # writers whose every value is null still have their rows, of dashes
        expected |= {"no tables": 6, "no rows": 6, "no columns": 6, "all null": 5}
        # and broad erasers, and one that says that nothing was verified
        assert len(missing) == expected[case] + len(READING_CARDS) + 2

    def test_nothing_is_known_about_the_model(self, small: ModelTables, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        write_model_page(model_tables({}, small.tables), path, None)
        assert "Erasure in unnamed model" in path.read_text(encoding="utf-8")

    def test_strings_from_data_are_escaped(self, small: ModelTables, tmp_path: Path) -> None:
        tables = {name: table.replace({"L0H1": NASTY}) for name, table in small.tables.items()}
        about = {**small.about.to_json(), "name": NASTY, "reason": NASTY, "state": "FAILED"}
        page = without_plotly(model_page(model_tables(about, tables), tmp_path, config={"corpus": NASTY}))
        assert "<img" not in page
        assert "<script>alert" not in page
        assert page.count("</script>") == len(CARDS) + 2
        lines = embedded(page, "layers")["1"]["data"]
        assert [line["name"] for line in lines if "img" in line["name"]] == []
        others = [line["name"] for step in embedded(page, "layers").values() for line in step["data"]]
        assert html.escape(NASTY, quote=False) in others

    @pytest.mark.nightly
    def test_large_models_are_aggregated_and_stay_small(self, tmp_path: Path) -> None:
        large = fake_model("large", 16, 14, n_tokens=4, d_model=12, reading=True)
        page = model_page(large, tmp_path)
        assert "This model has more than 200 writers" in page
        assert {card: len(embedded(page, card)) for card in ("onto", "patched", "causal", "dla")} == {
            **{"onto": 40, "patched": 80},
            **{"causal": 2, "dla": 2},
        }
        assert len(page) < 12e6

    def test_of_an_older_run_nothing_is_said_about_reading(self, small: ModelTables, tmp_path: Path) -> None:
        page = model_page(small, tmp_path)
        assert page.count("This run did not measure it, or no measured writer has a later attention layer") == 4
        assert [said for said in ("most erased", "Most erased", ">erasers<") if said in without_plotly(page)] == []
        assert "the 5 most opposed" in page


class TestReadingOnAModelsPage:
    def test_holds_every_figure(self, reading: ModelTables, tmp_path: Path) -> None:
        page = model_page(reading, tmp_path)
        # without the zero head and the last layer: two embeddings, five heads and two MLPs that later heads can read
        sizes = {"patched": 2 * 9, "erased": 2, "causal": 2 * 2 * 2, "dla": 2 * 2 * 2}
        assert {card: len(embedded(page, card)) for card in READING_CARDS} == sizes
        assert "This run did not measure it" not in page

    def test_every_choice_of_the_controls_has_its_figure(self, reading: ModelTables, tmp_path: Path) -> None:
        page = model_page(reading, tmp_path)
        for card in READING_CARDS:
            selects = re.findall(f'<select data-control="{card}"[^>]*>(.*?)</select>', page)
            choices = itertools.product(*(re.findall('value="(\\d+)"', options) for options in selects))
            assert sorted(embedded(page, card)) == sorted(".".join(choice) for choice in choices)

    def test_says_what_is_erased_most(self, reading: ModelTables, tmp_path: Path) -> None:
        page = model_page(reading, tmp_path)
        first = reading.tables["writers"].sort_values("rank").iloc[0]
        writer, share = first["writer"], first["erased"]
        assert (
            f"Most erased: {writer}. Later heads take out {share:.2f} of it because they, or heads between, read it"
            in page
        )
        ends = f"{first['written']:.2f} where it writes"
        assert ends in page and f"{first['remaining']:.2f} at the end." in page.replace("−", "-")
        assert "Words used here" in page
        assert "the 5 most erased" in page
        ranked = reading.tables["writers"].dropna(subset="rank").sort_values("rank")["writer"].tolist()
        options = re.findall(r'<select data-control="patched"[^>]*>(.*?)</select>', page)[0]
        assert re.findall(r"<option[^>]*>(.*?)</option>", options) == ranked

    @pytest.mark.nightly
    @pytest.mark.parametrize("case", list(less_reading(fake_model("x", 2, 1, n_tokens=4, reading=True))))
    def test_missing_parts_leave_the_rest(self, reading: ModelTables, case: str, tmp_path: Path) -> None:
        page = model_page(model_tables(reading.about, less_reading(reading)[case]), tmp_path)
        missing = re.findall(r'<p class="note">(.*?)</p>', page)
        assert len(missing) == {"no rows": 3, "no columns": 3, "all null": 3, "no ranks": 1}.get(case, 0) + 2

    def test_a_single_layer_has_only_embeddings_to_be_read(self, tmp_path: Path) -> None:
        page = model_page(fake_model("one", 1, 2, n_tokens=12, reading=True), tmp_path)
        assert len(embedded(page, "patched")) == 4

    def test_strings_from_data_are_escaped(self, reading: ModelTables, tmp_path: Path) -> None:
        tables = {name: table.replace({"L0H1": NASTY}) for name, table in reading.tables.items()}
        tables["writers"] = tables["writers"].assign(erasers=NASTY)
        page = without_plotly(model_page(model_tables(reading.about, tables), tmp_path))
        assert "<img" not in page
        assert "<script>alert" not in page
        assert page.count("</script>") == len(CARDS) + len(READING_CARDS) + 2


@pytest.fixture(scope="module")
def verified() -> ModelTables:
    """A run that verified three writers and a group that was named for one."""
    groups = {"L0H1": ("L1H0", "L2H1")}
    return fake_model("verified", 3, 3, seed=3, n_tokens=96, d_model=40, zero=("L1H1",), verify=True, groups=groups)


class TestVerifyOnAModelsPage:
    def test_opens_with_whose_dla_to_trust_and_the_verdicts(self, verified: ModelTables, tmp_path: Path) -> None:
        page = model_page(verified, tmp_path)
        shown = sections(page)
        assert shown[:9] == [*OPENING, "patched", "dla", "layers", "onto"]
        assert [key for key in shown[9:-2] if key in VERIFY_PARTS] == VERIFY_PARTS
        assert shown[-3:] == ["heatmaps", "writers", "broad-erasers"] and len(set(shown)) == len(shown)
        opening = page[: page.index("<nav")]
        counts = verified.tables["dla_trust"]["trust"].value_counts()
        groups = re.findall(r'<span class="group">(.*?)</span>', page)
        assert groups == ["At a glance", "Writer by writer", "Verified writers", "All writers"]
        for label in ("Writer (verified only)", "Writer ← erasers (verified only)"):
            assert label in page
        assert f"DLA verdicts of {counts.sum()} components: " in opening
        assert f"{counts['cancelled']} cancelled (" in opening
        assert len(re.findall(r"<li>.*?held-out pooled β −?\d", opening)) == 4
        # broad erasers alone were not invented
        assert re.findall(r'<p class="note">(.*?)</p>', page) == ["This was not measured: there is no table erasers."]

    def test_significant_erasers_are_in_the_writers_table(self, verified: ModelTables, tmp_path: Path) -> None:
        page = model_page(verified, tmp_path)
        assert "significant erasers" in page
        assert "significant erasers" not in model_page(
            fake_model("scan", 2, 2, n_tokens=24, reading=True), tmp_path / "scan"
        )

    def test_a_run_that_verified_nothing_says_so_once(self, reading: ModelTables, tmp_path: Path) -> None:
        page = model_page(reading, tmp_path)
        assert page.count("This run did not verify any writer") == 1
        assert [key for key in sections(page) if key in ("trust", *VERIFY_PARTS)] == []

    def test_without_a_scan_the_verdicts_are_there(self, verified: ModelTables, tmp_path: Path) -> None:
        tables = {name: verified.tables[name] for name in ("eraser_group", "nulls")}
        opening = model_page(model_tables(verified.about, tables), tmp_path).partition("<nav")[0]
        assert opening.count("<li>") == 4
        assert "No writer was measured" not in opening

    def test_without_trust_its_table_says_so_behind_the_rest(self, verified: ModelTables, tmp_path: Path) -> None:
        tables = {name: table for name, table in verified.tables.items() if name != "dla_trust"}
        page = model_page(model_tables(verified.about, tables), tmp_path)
        assert sections(page)[:4] == OPENING[1:]
        assert sections(page)[-4:] == ["trust", "heatmaps", "writers", "broad-erasers"]
        assert "components&#39; DLA is cancelled" not in page
        assert page.count('<p class="note">') == 2

    def test_strings_from_data_are_escaped(self, verified: ModelTables, tmp_path: Path) -> None:
        tables = {name: table.replace({"L0H1": NASTY}) for name, table in verified.tables.items()}
        tables["adversarial"] = tables["adversarial"].assign(text=NASTY, top=NASTY, component=NASTY)
        tables["aligned_tokens"] = tables["aligned_tokens"].assign(token=NASTY)
        tables["dla_trust"] = tables["dla_trust"].assign(trust=NASTY)
        page = without_plotly(model_page(model_tables(verified.about, tables), tmp_path))
        assert "<img" not in page
        assert "<script>alert" not in page
        drawn = sum(f'id="{key}-figures"' in page for key in sections(page))
        assert page.count("</script>") == drawn + 2
        texts = [trace["text"] for trace in embedded(page, "adversarial")["0.0.0"]["data"] if "text" in trace]
        assert texts and all(text[0].startswith("&lt;img") for text in texts)

    @pytest.mark.nightly
    def test_many_points_stay_below_ten_megabytes(self, verified: ModelTables, tmp_path: Path) -> None:
        points = verified.tables["dla_points"]
        many = points.loc[np.repeat(points.index, 40)]
        page = model_page(model_tables(verified.about, {**verified.tables, "dla_points": many}), tmp_path)
        assert len(page) < 10e6


class TestComparison:
    def test_holds_every_model(self, small: ModelTables, tmp_path: Path) -> None:
        models = [small, fake_model("bare", 3, 2, attn_only=True, n_tokens=24)]
        page = comparison(models, tmp_path, {"small": Home("small/page.html")})
        assert '<a href="small/page.html">small</a>' in page
        assert len(embedded(page, "depth")) == 2
        assert len(embedded(page, "opposed")) == 2
        assert [trace["name"] for trace in embedded(page, "removed")["0"]["data"]] == ["small", "bare"]
        assert "Mind when comparing" not in page
        assert page.count("plotly.js v") == 1

    def test_erasing_by_reading_beside_an_older_run(
        self, small: ModelTables, reading: ModelTables, tmp_path: Path
    ) -> None:
        page = comparison([reading, small], tmp_path)
        assert sorted(embedded(page, "causal")) == [f"{centred}.{choice}.0" for centred in "01" for choice in "01"]
        assert "No later heads, or not measured: small." in page
        assert "Without a writer for which this was measured: small." in page
        assert "most erased: share (written → remaining)" in page
        assert "most opposed: written → remaining" in page

    def test_of_more_than_two_models_two_maps_are_chosen(self, reading: ModelTables, tmp_path: Path) -> None:
        deep = fake_model("deep", 4, 2, n_tokens=24, reading=True)
        models = [model_tables({**reading.about.to_json(), "name": name}, reading.tables) for name in ("a", "b")] + [
            deep
        ]
        page = comparison(models, tmp_path)
        assert len(embedded(page, "causal")) == 2 * 2 * 3
        panels = re.findall(r'<select data-control="causal" data-panel="(\d)"[^>]*>(.*?)</select>', page)
        assert [panel for panel, _ in panels] == ["0", "1"]
        assert [re.findall(r"<option[^>]*>(.*?)</option>", options) for _, options in panels] == [
            ["a", "b", "deep"]
        ] * 2
        # the deepest model has most to show
        assert [re.findall(r"selected>(.*?)<", options) for _, options in panels] == [["a"], ["deep"]]

    def test_older_runs_alone_say_nothing_of_reading(self, small: ModelTables, tmp_path: Path) -> None:
        parts = {part.key: part for part in comparison_page_parts([small], fake_manifest([small]))}
        for key in ("size", "erased", "causal", "dla", "significant", "trust"):
            assert not parts[key].figures, key
        assert "most erased: share (written → remaining)" not in [column.heading for column in parts["models"].columns]
        assert "This was not measured in any model" in comparison([small], tmp_path)

    @pytest.mark.nightly
    def test_twelve_models_stay_below_ten_megabytes(self, tmp_path: Path) -> None:
        one = fake_model("gpt2", 12, 12, n_tokens=4, d_model=16, reading=True)
        models = [
            model_tables({**one.about.to_json(), "name": f"gpt2-{index}", "folder": str(index)}, one.tables)
            for index in range(12)
        ]
        assert len(comparison(models, tmp_path)) < 10e6

    def test_differences_are_said(self, small: ModelTables, tmp_path: Path) -> None:
        other = model_tables({**small.about.to_json(), "name": "other", "n_prompts": 4}, small.tables)
        lost = model_tables({"name": "lost"}, {})
        path = tmp_path / "compare.html"
        write_comparison([small, other], path, fake_manifest([small, lost]), {})
        page = path.read_text(encoding="utf-8")
        assert "Models were measured on different numbers of prompts: small 8, other 4." in page
        assert "Not on this page, though in the sweep: lost." in page

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_missing_tables_beside_a_whole_model(self, small: ModelTables, case: str, tmp_path: Path) -> None:
        models = [small, model_tables({**small.about.to_json(), "name": "less"}, broken(small)[case])]
        page = comparison(models, tmp_path)
        if case in ("no tables", "no rows", "no columns", "all null"):
            assert "Without a measured writer: less." in page
            assert "Nothing was measured for less." in page

    def test_no_models_at_all(self, tmp_path: Path) -> None:
        page = comparison([], tmp_path)
        assert "There are no models in this sweep." in page
        # the protocol is a table of no rows, and every other part says that it has nothing either
        assert page.count('<p class="note">') == len(sections(page))

    def test_one_model_that_is_empty(self, tmp_path: Path) -> None:
        page = comparison([model_tables({}, {})], tmp_path)
        assert "<h1>Erasure across 1 model</h1>" in page

    def test_trust_and_chance_beside_a_run_that_did_not_verify(
        self, verified: ModelTables, reading: ModelTables, tmp_path: Path
    ) -> None:
        page = comparison([verified, reading], tmp_path)
        assert sections(page)[-2:] == ["significant", "protocol"]
        assert sorted(embedded(page, "trust")) == ["0", "1"]
        found = int(verified.tables["writers"]["significant_erasers"].sum())
        pairs = verified.tables["v_composition"].dropna(subset="p")
        tested = int(pairs["eraser"].str.fullmatch(r"L\d+H\d+").sum())
        assert embedded(page, "significant")["0"]["data"][0]["text"] == [f"{found} of {tested}"]
        assert page.count("Not measured: reading.") == 2

    def test_names_and_links_are_escaped(self, small: ModelTables, tmp_path: Path) -> None:
        nasty = model_tables({**small.about.to_json(), "name": NASTY}, small.tables)
        homes = {NASTY: Home('"><b>x', {"writers": "javascript:alert(1)"}, "https://tracking/#/runs/1")}
        page = without_plotly(comparison([nasty, small], tmp_path, homes))
        assert "<img" not in page
        assert "<script>alert" not in page
        assert '<a href="&#34;&gt;&lt;b&gt;x">' in page
        assert 'href="https://tracking/#/runs/1"' in page
        assert "javascript:" not in page


def links(page: str) -> dict[str, str]:
    """Where links lead, by their words; those to parts of the page left out."""
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return {words: href for href, words in re.findall(r'<a [^>]*?href="([^"#][^"]*)"[^>]*>([^<]+)</a>', shown)}


class TestWhereThingsAre:
    HOME = Home("x/index.html", {"writers": "tables/writers.parquet"}, "http://tracking/#/experiments/1/runs/2")

    def test_a_models_page_leads_to_its_tables_its_run_and_up(self, reading: ModelTables, tmp_path: Path) -> None:
        write_model_page(reading, tmp_path / "page.html", None, self.HOME, ("../compare.html", "all models"))
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert links(page) == {
            "all models": "../compare.html",
            "writers.parquet": "tables/writers.parquet",
            "run in MLflow": "http://tracking/#/experiments/1/runs/2",
        }
        # what is not known to be anywhere is named all the same
        assert "v_composition.parquet" in page
        assert page.index("all models") < page.index("<h1>")

    def test_a_comparison_leads_to_each_models_own(self, reading: ModelTables, tmp_path: Path) -> None:
        other = model_tables({**reading.about.to_json(), "name": "other"}, reading.tables)
        homes = {
            "reading": self.HOME,
            "other": Home("o/index.html", {"writers": "o/writers.parquet"}, "http://tracking/#/o"),
        }
        page = comparison([reading, other], tmp_path, homes)
        found = set(re.findall(r'href="([^"#][^"]*)"', page.partition("<script>")[0]))
        assert {
            *("x/index.html", "tables/writers.parquet", "http://tracking/#/experiments/1/runs/2"),
            *("o/index.html", "o/writers.parquet", "http://tracking/#/o"),
        } <= {href.partition("#writer")[0] for href in found}

    def test_every_part_says_which_tables_it_is_from(self, verified: ModelTables) -> None:
        parts = model_parts(verified)
        assert [part.key for part in parts if not part.tables] == []
        named = {name for part in parts for name in part.tables}
        assert named <= {*verified.tables, "erasers"}

    def test_models_that_were_left_out_are_named(self, small: ModelTables, tmp_path: Path) -> None:
        page = comparison([small], tmp_path, left_out=[f"{NASTY} was logged with schema 3: left out"])
        opening = page.partition("<nav")[0]
        assert f"<li>{escape(NASTY)} was logged with schema 3: left out</li>" in opening
        assert "Left out" not in comparison([small], tmp_path)


class TestSingleFigures:
    def test_each_is_a_page_of_its_own(self, reading: ModelTables, tmp_path: Path) -> None:
        write_figures(reading, tmp_path / "figures")
        assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["causal.html", "presence.html"]
        whole = model_page(reading, tmp_path)
        for key in ("causal", "presence"):
            page = (tmp_path / "figures" / f"{key}.html").read_text(encoding="utf-8")
            assert sections(page) == [key]
            assert embedded(page, key) == embedded(whole, key)
            assert page.count("plotly.js v") == 1
            assert re.search(r"<h1>.*: reading</h1>", page)
            assert "3 layers of 3 heads" in page

    def test_what_was_not_measured_is_not_written_and_does_not_stay(
        self, small: ModelTables, reading: ModelTables, tmp_path: Path
    ) -> None:
        write_figures(reading, tmp_path)
        write_figures(small, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["presence.html"]

    def test_a_model_without_tables_leaves_an_empty_folder(self, small: ModelTables, tmp_path: Path) -> None:
        write_figures(model_tables(small.about, {}), tmp_path / "figures")
        assert list((tmp_path / "figures").iterdir()) == []


def test_a_page_that_cannot_be_written_leaves_nothing(small: ModelTables, tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write_model_page(small, tmp_path / "page.html", fake_manifest([small]))
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]


def test_words_for_what_differs_between_sweeps_are_shown(small: ModelTables, tmp_path: Path) -> None:
    page = comparison([small], tmp_path, config={"prompts": "8 / 16", "seq_len": "12 / 24"})
    assert "Measured on 8 / 16 prompts of 12 / 24 tokens" in page
