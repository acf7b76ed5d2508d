"""Pages from parts: what is written where, what leads to tables and runs, and what is never written."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import (
    Card,
    Control,
    HtmlColumn,
    HtmlTable,
    Part,
    Prose,
    SortedCell,
    writers_of,
)
from erasure_sweep.dashboards.html.render import asset, render
from erasure_sweep.dashboards.html.sparkline import sparkline
from erasure_sweep.dashboards.plots.theme import BLANK, CYCLE, GREY, ON_DARK, figure, template

NAN = float("nan")
HERE = Home("a/index.html", {"writers": "a/tables/writers.parquet"}, "https://host/#/runs/1")


def page(folder: Path, parts: list[Part], **options: Any) -> str:
    path = folder / "page.html"
    write_document(path, "A page", "", parts, **options)
    assert [child.name for child in folder.iterdir()] == ["page.html"]
    text = path.read_text(encoding="utf-8")
    return text[text.index("<body>") : text.index('<script type="application/json" id="themes">')]


def drawn() -> go.Figure:
    return figure([go.Scatter(x=[0], y=[1])], x_title="x", y_title="y")


def card(key: str, *controls: Control, **options: Any) -> Card:
    keys = [str(index) for index in range(len(controls[0].options))] if controls else ["0"]
    return Card(f"Card {key}", "Said.", {one: drawn() for one in keys}, controls, **options, key=key)


def table(n_rows: int) -> HtmlTable:
    return HtmlTable(
        "T", "Said.", [HtmlColumn("name"), HtmlColumn("n", "", True)], [[f"row {n}", n] for n in range(n_rows)], key="t"
    )


class TestLinks:
    @pytest.mark.parametrize(
        "href",
        [
            "a/b.html",
            "../x%20y.parquet",
            "#writer=L0H2",
            "file:///x/y",
            "http://h/p?q=1#r",
            "https://h",
            "HTTPS://h",
            "?a",
        ],
    )
    def test_written(self, href: str) -> None:
        assert link(href, "<w>") == f'<a href="{href}">&lt;w&gt;</a>'

    @pytest.mark.parametrize(
        "href",
        [
            *(
                "javascript:alert(1)",
                "JavaScript:alert(1)",
                " javascript:alert(1)",
                "java\tscript:alert(1)",
                "\x01javascript:x",
            ),
            *(
                "data:text/html,x",
                "blob:x",
                "ftp://h",
                "//evil.example/x",
                "\\\\evil.example\\x",
                "/\\evil.example",
                "s3://b/k",
            ),
            *("vbscript:x", "http://[", "", None),
        ],
    )
    def test_never_written(self, href: str | None) -> None:
        assert link(href, "<w>") == "&lt;w&gt;"

    def test_quotes_stay_in_the_attribute(self) -> None:
        assert link('a"onclick="b', "w") == '<a href="a&#34;onclick=&#34;b">w</a>'


def numbers_line(tables: list[str], homes: dict[str, Home]) -> str:
    return render("numbers.html.j2", tables=tables, homes=homes).strip()


class TestWhereTheNumbersAre:
    def test_of_one_model(self) -> None:
        assert numbers_line(["writers", "nulls"], {"a": HERE}) == (
            '<p class="numbers">Numbers: <a href="a/tables/writers.parquet">writers.parquet</a>, nulls.parquet · '
            '<a href="https://host/#/runs/1">run in MLflow</a></p>'
        )

    def test_of_several(self) -> None:
        assert numbers_line(["writers", "nulls"], {"a<": HERE, "b": Home()}) == (
            '<details class="numbers"><summary>The numbers: writers, nulls</summary><ul>'
            '<li><a href="a/index.html">a&lt;</a>: <a href="a/tables/writers.parquet">writers.parquet</a>, nulls.parquet · '
            '<a href="https://host/#/runs/1">run in MLflow</a></li>'
            "<li>b: writers.parquet, nulls.parquet</li></ul></details>"
        )

    def test_without_homes_or_tables(self) -> None:
        assert numbers_line(["writers"], {}) == '<p class="numbers">Numbers: writers.parquet</p>'

    def test_under_each_part_that_shows_something(self, tmp_path: Path) -> None:
        parts: list[Part] = [
            card("one", tables=("writers",)),
            Card("Two", "", {}, tables=("writers",), empty="Nothing.", key="two"),
            Prose("Three", "", {"0": Markup("<p>x</p>")}, tables=("writers",), key="three"),
            card("four"),
        ]
        shown = page(tmp_path, parts, homes={"a": HERE})
        sections = re.findall(r'<section class="card" id="(\w+)".*?</section>', shown, re.DOTALL)
        numbered = [one for one in shown.split("<section") if "Numbers: " in one]
        assert sections == ["one", "two", "three", "four"]
        assert [one.split('id="')[1].split('"')[0] for one in numbered] == ["one", "three"]
        assert "Nothing." in shown


class TestParts:
    def test_a_link_above_the_title(self, tmp_path: Path) -> None:
        up = '<p class="up"><a href="../compare.html">All &lt;models&gt;</a></p>\n<h1>'
        assert up in page(tmp_path, [table(1)], up=("../compare.html", "All <models>"))
        assert 'class="up"' not in page(tmp_path, [table(1)])

    def test_one_body_of_a_text_is_shown(self, tmp_path: Path) -> None:
        control = Control("Writer", ["a", "b"], chosen=1)
        prose = Prose(
            "P <b>", "Said.", {"0": Markup("<p>x</p>"), "1": Markup("<p>y</p>")}, [control], empty="None <b>.", key="p"
        )
        shown = page(tmp_path, [prose])
        bodies = re.findall(r'<(?:div|p)[^>]*data-body="(.?)"( hidden)?>(.*?)</', shown)
        assert bodies == [("0", " hidden", "<p>x"), ("1", "", "<p>y"), ("", " hidden", "None &lt;b&gt;.")]
        assert "P &lt;b&gt;" in shown

    def test_a_text_with_nothing_says_so(self, tmp_path: Path) -> None:
        assert '<p class="note">None &lt;b&gt;.</p>' in page(
            tmp_path, [Prose("P", "Said.", {}, empty="None <b>.", key="p")]
        )

    @pytest.mark.parametrize(("n_rows", "filters"), [(7, 0), (8, 1)])
    def test_tables_have_a_filter_from_eight_rows_up(self, tmp_path: Path, n_rows: int, filters: int) -> None:
        shown = page(tmp_path, [table(n_rows)])
        assert (shown.count("data-filter="), shown.count(f"<output data-count>{n_rows} rows")) == (filters, filters)
        assert shown.count('data-save-table="t-table"') == 1

    def test_cells(self, tmp_path: Path) -> None:
        columns = [
            HtmlColumn("a"),
            HtmlColumn("b"),
            HtmlColumn("c", filtered=False, width="narrow"),
            HtmlColumn("d", "", True),
        ]
        rows = [
            [SortedCell(Markup("<i>x</i>"), 2.5), SortedCell(Markup("<b>y</b>"), NAN), "<z>", 1 / 3],
            ["<w>", None, Markup("<u>v</u>"), SortedCell(Markup("<s>u</s>"), 1e-9)],
            ["n", "m", "l", None],
        ]
        shown = page(tmp_path, [HtmlTable("T", "", columns, rows, key="t")])
        assert re.findall(r"<tr>(.*)</tr>\n?", shown.split("<tbody>")[1]) == [
            '<th scope="row" data-value="2.5"><i>x</i></th><td class="wide" data-filtered data-value=""><b>y</b></td>'
            '<td class="narrow">&lt;z&gt;</td><td class="number" data-value="0.3333333333333333">0.333</td>',
            '<th scope="row">&lt;w&gt;</th><td class="wide" data-filtered>—</td><td class="narrow"><u>v</u></td>'
            '<td class="number" data-value="1e-09"><s>u</s></td>',
            '<th scope="row">n</th><td class="wide" data-filtered>m</td><td class="narrow">l</td>'
            '<td class="number" data-value="">—</td>',
        ]


class TestOneWriterForThePage:
    def test_which_options_are_writers(self) -> None:
        assert writers_of(Control("Writer", ["the 5 most erased", "L0H1", "MLP0", "L0H1"])) == ["L0H1", "MLP0"]
        assert writers_of(Control("Writer ← erasers", ["L0H1 ← L1H0", "L0H1 ← L2H0", "embed ← L1H1 (5 heads)"])) == [
            *("L0H1", "embed")
        ]
        assert writers_of(Control("Writers", ["L0H1"])) == writers_of(Control("Layer", ["L0H1"])) == []

    def test_is_offered_where_two_parts_choose_one(self, tmp_path: Path) -> None:
        one = card("one", Control("Writer", ["all of them", "L0H1"]))
        two = Prose(
            "Two",
            "",
            {"0": Markup("x"), "1": Markup("y")},
            [Control("Writer ← erasers", ["e<", "L0H1 ← L1H0"])],
            key="two",
        )
        assert "page-writer" not in page(tmp_path, [one, table(1)])
        shown = page(tmp_path, [one, two, card("three", Control("Writers", ["a", "b"]))])
        choice = shown[shown.index('<select id="page-writer"') :].split("</select>")[0]
        assert re.findall(r'<option value="(.*?)"', choice) == ["", "L0H1", "e&lt;"]
        assert shown.count(" data-writers") == 2

    def test_a_page_of_one_part_has_no_bar(self, tmp_path: Path) -> None:
        assert 'class="bar"' not in page(tmp_path, [table(1)])
        assert 'class="bar"' in page(tmp_path, [table(1), card("one")])


class TestTheListOfParts:
    def test_without_groups_it_is_flat(self, tmp_path: Path) -> None:
        shown = page(tmp_path, [card("one"), card("two")])
        listed = shown[shown.index("<ul>") : shown.index("</details>")]
        assert listed == '<ul><li><a href="#one">Card one</a></li><li><a href="#two">Card two</a></li></ul>'

    def test_neighbours_of_a_group_stand_under_its_heading(self, tmp_path: Path) -> None:
        parts: list[Part] = [card("a"), card("b", group="G <1>"), card("c", group="G <1>"), card("d", group="H")]
        shown = page(tmp_path, [*parts])
        assert re.findall(r'class="group">(.*?)</span><ul>(.*?)</ul>', shown) == [
            ("G &lt;1&gt;", '<li><a href="#b">Card b</a></li><li><a href="#c">Card c</a></li>'),
            ("H", '<li><a href="#d">Card d</a></li>'),
        ]
        assert '<ul><li><a href="#a">' in shown


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


class TestColours:
    DARK_CARD = "#1d2127"

    def test_on_a_dark_page_all_can_be_seen_and_told_apart(self) -> None:
        drawn = [ON_DARK[colour] for colour in (*CYCLE, GREY)]
        assert f"--card: {self.DARK_CARD}" in asset("page.css")
        assert min(contrast(colour, self.DARK_CARD) for colour in drawn) > 5
        places = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in drawn]
        assert min(math.dist(a, b) for a, b in itertools.combinations(places, 2)) > 60
        # images are light: each colour is found again
        assert len({*ON_DARK, *ON_DARK.values()}) == 2 * len(ON_DARK)

    @pytest.mark.parametrize(("scheme", "blank"), [("light", BLANK), ("dark", ON_DARK[BLANK])])
    def test_no_value_and_zero_are_told_apart(self, scheme: str, blank: str) -> None:
        (middle,) = [colour for place, colour in template(scheme).layout.coloraxis.colorscale if place == 0.5]
        assert contrast(blank, middle) > 1.25

    @pytest.mark.parametrize(("scheme", "sign"), [("light", -1), ("dark", 1)])
    def test_of_a_map_stand_out_the_more_the_further_from_zero(self, scheme: str, sign: int) -> None:
        scale = template(scheme).layout.coloraxis.colorscale
        ends = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for _, colour in scale])
        places = np.linspace(0, 1, 41)
        mixed = np.stack([np.interp(places, [place for place, _ in scale], end) for end in ends.T], axis=1)
        shades = [luminance("#" + "".join(f"{round(part):02x}" for part in colour)) for colour in mixed]
        for half in (shades[20:], shades[20::-1]):
            assert all(sign * (further - nearer) > 0 for nearer, further in itertools.pairwise(half))


class TestSparkline:
    def test_a_line_with_a_gap(self) -> None:
        drawn = sparkline([0.0, 1.0, NAN, 0.5, 9.0], -1.0, 1.0, 'L0H1 "<')
        # 90 wide and 18 high within a margin of 3: 1 is the top, 0 the middle; what is beyond stands at the edge
        assert re.findall(r' d="(.*?)"', drawn) == ["M3 12h.01L25.5 3M70.5 7.5h.01L93 3"]
        assert re.findall(r'<circle cx="(.*?)" cy="(.*?)"', drawn) == [("93", "3")]
        assert re.findall(r'<line .*?y1="(.*?)"', drawn) == ["12", "3"]
        assert 'role="img" aria-label="L0H1 &#34;&lt;"' in drawn
        assert isinstance(drawn, Markup)

    def test_the_dot_is_at_the_last_that_is_known(self) -> None:
        assert '<circle cx="48" cy="12"' in sparkline([NAN, 0.5, NAN], 0.0, 1.0, "x")

    @pytest.mark.parametrize("values", [[], [NAN], [NAN, NAN]])
    def test_nothing_known(self, values: list[float]) -> None:
        drawn = sparkline(values, 0.0, 1.0, "not measured")
        assert "<path" not in drawn and "<circle" not in drawn and "not measured" in drawn

    def test_one_value_and_no_range(self) -> None:
        drawn = sparkline([3.0], 2.0, 2.0, "x")
        assert '<circle cx="48" cy="12"' in drawn
        assert "<line" not in drawn


def test_a_page_opens_on_a_writer_but_not_in_mlflows_viewer() -> None:
    assert Home("a%20b/index.html").at_writer("L0H1") == "a%20b/index.html#writer=L0H1"
    assert Home("m/index.html").at_writer("<b>") == "m/index.html#writer=%3Cb%3E"
    served = "http://h:5000/#/experiments/1/runs/2/artifacts/index.html"
    assert Home(served).at_writer("L0H1") == served
    assert Home().at_writer("L0H1") is None
