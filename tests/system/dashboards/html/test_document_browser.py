"""What readers do with any page, in a real browser: choose a writer for all of it, filter, sort, save what is shown."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.links import Home
from tests.support.fakes.page import NASTY, parts
from tests.support.fakes.written_pages import Opened

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    home = Home("toy.html", {"writers": "tables/writers.parquet"}, "http://127.0.0.1:9/#/run")
    write_document(path, "Erasure in toy", "", parts(), {"toy": home}, ("../compare.html", "All models"))
    return path


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Any]:
    contexts = []

    def open_page(address: str = "", **options: Any) -> Opened:
        page = Opened(browser, written, address, **options)
        contexts.append(page.context)
        return page

    yield open_page
    for context in contexts:
        context.close()


def keys(page: Opened) -> list[str]:
    return page.page.eval_on_selector_all(".plot", "(all) => all.slice(0, 2).map((plot) => plot.dataset.drawn)")


def bodies(page: Opened) -> list[str]:
    return page.page.eval_on_selector_all(
        "#words [data-body]:not([hidden])", "(all) => all.map((one) => one.textContent.trim())"
    )


def notes(page: Opened) -> list[str]:
    return [said for said in page.page.locator(".absent").all_text_contents() if said]


def under_the_bar(page: Opened, card: str) -> bool:
    top = page.page.evaluate(f"document.getElementById('{card}').getBoundingClientRect().top")
    bottom = page.page.evaluate("document.querySelector('.bar').getBoundingClientRect().bottom")
    return bool(bottom <= top < bottom + 60)


def address(page: Opened) -> str:
    return str(page.page.evaluate("location.hash"))


class TestAWriterForThePage:
    def test_by_keyboard(self, opened: Any) -> None:
        page = opened()
        offered = page.page.eval_on_selector_all("#page-writer option", "(all) => all.map((one) => one.value)")
        assert offered == ["", "L0H1", "MLP0", "embed"]
        page.page.focus("#page-writer")
        page.page.keyboard.press("ArrowDown")
        page.wait_drawn("one", "1")
        assert (keys(page), bodies(page), notes(page), address(page)) == (
            ["1", "0.0"],
            ["body 0 0"],
            [],
            "#writer=L0H1",
        )
        page.page.keyboard.press("ArrowDown")
        page.wait_drawn("one", "2")
        assert (keys(page), bodies(page)) == (["2", "0.0"], ["body 0 0"])
        absent = "MLP0 is not shown here; this is L0H1"
        assert (notes(page), address(page)) == ([absent] * 2, "#writer=MLP0")
        page.page.keyboard.press("Home")
        page.wait_drawn("one", "0")
        assert (notes(page), address(page)) == ([], "")
        assert page.complaints == []

    def test_other_choices_stay(self, opened: Any) -> None:
        page = opened()
        page.page.select_option("#words select >> nth=1", "1")
        page.page.select_option("#page-writer", "embed")
        page.wait_drawn("two", "1.0")
        assert bodies(page) == ["body 1 1"]
        assert page.page.inner_text("#two-sentence") == "It shows 1."

    def test_in_the_address(self, opened: Any) -> None:
        page = opened("#writer=embed")
        assert (keys(page), bodies(page)) == (["0", "1.0"], ["body 1 0"])
        assert notes(page) == ["embed is not shown here; these are the 2 most erased"]
        assert page.page.input_value("#page-writer") == "embed"
        page.page.evaluate("location.hash = '#writer=L0%481'")
        page.wait_drawn("one", "1")
        assert bodies(page) == ["body 0 0"]

    @pytest.mark.parametrize(("writer", "card"), [("embed", "two"), ("MLP0", "one")])
    def test_an_address_leads_to_the_first_figure_of_it(self, opened: Any, writer: str, card: str) -> None:
        page = opened(f"#writer={writer}", viewport={"width": 1000, "height": 500})
        page.wait_until(lambda: under_the_bar(page, card))
        assert page.page.locator(".bar label.told").count() == 1
        page.page.evaluate("location.hash = '#writer=L0H1'")
        page.wait_until(lambda: under_the_bar(page, "one"))

    def test_choosing_it_does_not_scroll(self, opened: Any) -> None:
        page = opened(viewport={"width": 1000, "height": 500})
        page.page.select_option("#page-writer", "embed")
        page.wait_drawn("two", "1.0")
        assert page.page.evaluate("window.scrollY") == 0
        assert page.page.locator(".told").count() == 0

    @pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "told")])
    def test_it_shows_where_it_was_chosen(self, opened: Any, motion: str, animation: str) -> None:
        page = opened("#writer=embed", reduced_motion=motion)
        style = "(select) => [getComputedStyle(select).animationName, getComputedStyle(select).boxShadow !== 'none']"
        assert page.page.eval_on_selector("#page-writer", style) == [animation, True]

    def test_a_slider_over_layers_goes_to_its_layer(self, opened: Any) -> None:
        page = opened("#writer=MLP0")
        assert page.page.inner_text("#layers output") == "layer 0"
        page.wait_drawn("layers", "1")
        page.page.select_option("#page-writer", "embed")
        page.wait_drawn("layers", "0")
        assert page.page.inner_text("#layers output") == "embeddings"
        page.page.select_option("#page-writer", "")
        page.wait_drawn("layers", "2")

    @pytest.mark.parametrize("odd", ["#writer=L9H9", "#writer=", "#writer=%", "#writer=<b>&one", "#nothing"])
    def test_one_that_is_nowhere_changes_nothing(self, opened: Any, odd: str) -> None:
        page = opened(odd)
        assert (keys(page), page.page.input_value("#page-writer"), page.complaints) == (["0", "0.0"], "", [])
        said = page.page.inner_text("#page-writer-note")
        assert said == ("L9H9 has no figures of its own" if "L9" in odd else said)

    def test_a_part_can_leave_it(self, opened: Any) -> None:
        page = opened("#writer=MLP0")
        page.page.select_option("#one select", label="L0H1")
        page.wait_drawn("one", "1")
        assert (page.page.input_value("#page-writer"), address(page), notes(page)) == ("", "", [])
        assert keys(page) == ["1", "0.0"]

    def test_addresses_of_parts_still_lead_to_them(self, opened: Any) -> None:
        page = opened("#maps", viewport={"width": 1000, "height": 700})
        assert under_the_bar(page, "maps")


def test_the_list_of_parts_by_keyboard(opened: Any) -> None:
    page = opened(viewport={"width": 1000, "height": 700})
    page.page.focus("nav summary")
    page.page.keyboard.press("Enter")
    assert page.page.is_visible("nav li a >> nth=0")
    page.page.keyboard.press("Escape")
    assert not page.page.is_visible("nav li a >> nth=0")
    assert page.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.page.keyboard.press("Enter")
    for _ in range(4):
        page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    assert address(page) == "#maps"
    assert not page.page.is_visible("nav li a >> nth=0")


class TestFilesOfAFigure:
    def test_svg_is_light_whatever_the_page_is(self, opened: Any) -> None:
        page = opened(color_scheme="dark")
        name, content = page.saved("#one [data-save=svg]")
        drawn = content.decode()
        assert name == "erasure-in-toy-one.svg"
        assert drawn.startswith("<svg") and drawn.endswith("</svg>")
        assert "resid_post0" in drawn and "share" in drawn
        assert "rgb(27, 31, 36)" in drawn and "rgb(230, 232, 235)" not in drawn
        assert 'style="fill: rgb(255, 255, 255); fill-opacity: 1;"' in drawn

    def test_png_is_wide_enough_to_read_on_a_phone(self, opened: Any) -> None:
        page = opened(viewport={"width": 360, "height": 740})
        name, content = page.saved("#one [data-save=png]")
        assert name == "erasure-in-toy-one.png"
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", content[16:24]) == (1440, 600)

    def test_csv_is_what_is_drawn(self, opened: Any) -> None:
        page = opened("#writer=L0H1")
        page.page.select_option("#two select >> nth=1", "1")
        page.wait_drawn("two", "0.1")
        name, content = page.saved("#two [data-save=csv]")
        assert name == "erasure-in-toy-two.csv"
        assert content.decode() == "trace,x,y\r\nkept,resid_pre0,0\r\nkept,resid_post0,1\r\n"

    def test_csv_of_a_map_names_rows_and_columns(self, opened: Any) -> None:
        page = opened()
        name, content = page.saved("#maps .figure:first-child [data-save=csv]")
        assert name == "erasure-in-toy-maps-toy.csv"
        assert content.decode() == "x,y,z\r\nL1H0,embed,0.1\r\nL1H0,a <b>,-0.25\r\nL2H0,a <b>,0.5\r\n"
        name, _ = page.saved("#maps .figure:last-child [data-save=csv]")
        assert name == "erasure-in-toy-maps-b-x-b-amp-y-عربي.csv"

    def test_csv_of_points_has_their_names_places_and_ends(self, opened: Any) -> None:
        page = opened()
        _, content = page.saved("#places [data-save=csv]")
        assert list(csv.reader(io.StringIO(content.decode()))) == [
            ["series", "point", "x", "place", "y", "y_low", "y_high"],
            ["", "L0H1", "0.2", "toy-2l", "1", "0.75", "1.5"],
            ["", "MLP0", "0.8", "a <b>", "-1", "-1.125", "-0.75"],
            ["beyond", "MLP1", "1.1", "a <b>", "-50", "", ""],
        ]

    def test_plotly_offers_no_image_of_its_own(self, opened: Any) -> None:
        page = opened()
        titles = page.page.eval_on_selector_all(".modebar-btn", "(all) => all.map((one) => one.dataset.title)")
        assert titles and not [title for title in titles if "ownload" in title]


class TestTables:
    def test_a_filter_looks_into_text_and_counts(self, opened: Any) -> None:
        page = opened()
        assert page.page.inner_text("#table [data-count]") == "9 rows"
        page.page.fill("#table input", "mlp")
        assert page.page.inner_text("#table [data-count]") == "2 of 9 rows"
        page.page.fill("#table input", "0.75")  # a number, but in the label of a line
        assert page.page.inner_text("#table [data-count]") == "1 of 9 rows"
        page.page.fill("#table input", "x")  # in the last column too, which is not asked
        assert page.page.inner_text("#table [data-count]") == "1 of 9 rows"
        page.page.fill("#table input", "")
        assert page.page.inner_text("#table [data-count]") == "9 rows"

    def test_the_button_says_how_many_rows_it_saves(self, opened: Any) -> None:
        page = opened()
        button = page.page.locator("#table [data-save-table]")
        said = {}
        for asked in ("mlp", "L0H2", "nowhere", ""):
            page.page.fill("#table input", asked)
            said[asked] = (button.inner_text(), page.page.inner_text("#table [data-count]"), button.is_enabled())
        assert said == {
            "mlp": ("CSV (2 rows)", "2 of 9 rows", True),
            "L0H2": ("CSV (1 row)", "1 of 9 rows", True),
            "nowhere": ("CSV (0 rows)", "Nothing matches", False),
            "": ("CSV", "9 rows", True),
        }

    def test_drawings_sort_by_their_number(self, opened: Any) -> None:
        page = opened()
        first = "(all) => all.map((row) => row.cells[0].textContent.slice(-1)).join('')"
        page.page.click("#table thead th:nth-child(4) button")
        assert page.page.eval_on_selector_all("#table tbody tr", first) == "380124756"
        page.page.click("#table thead th:nth-child(4) button")
        assert page.page.eval_on_selector_all("#table tbody tr", first) == "574210836"

    def test_csv_is_what_the_filter_leaves_in_this_order(self, opened: Any) -> None:
        page = opened()
        page.page.click("#table thead th:nth-child(3) button")
        page.page.click("#table thead th:nth-child(3) button")
        page.page.fill("#table input", "l0h")
        page.page.fill("#table input", "L0H2")
        name, content = page.saved("#table [data-save-table]")
        assert name == "erasure-in-toy-table.csv"
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
        assert rows == [["writer", "kind", "share", "line", "mark"], ["L0H2", "head", *["0.3333333333333333"] * 2, "x"]]
        page.page.fill("#table input", "")
        rows = list(csv.reader(io.StringIO(page.saved("#table [data-save-table]")[1].decode(), newline="")))
        assert [row[2] for row in rows[1:]] == [
            "2",
            "1.5",
            "0.75",
            "0.3333333333333333",
            "0.25",
            "0.1",
            "0",
            "-0.5",
            "",
        ]
        assert [row[1] for row in rows if row[0] == "L0H7"] == [NASTY]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_bar_is_one_line_and_nothing_is_too_wide(opened: Any, scheme: str) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    page.page.evaluate("window.scrollTo(0, 1000)")
    box = page.page.locator(".bar").bounding_box()
    assert (box["y"], box["height"] <= 56) == (0, True)
    page.page.click("nav summary")
    listed = page.page.locator("nav ul").bounding_box()
    assert listed["x"] >= 0 and listed["x"] + listed["width"] <= 360 and listed["y"] + listed["height"] <= 740


def test_paper_has_no_buttons(opened: Any) -> None:
    page = opened()
    page.page.emulate_media(media="print")
    shown = page.page.evaluate(
        "[...document.querySelectorAll('button[data-save], .bar, select, input')].filter((one) => one.offsetParent)"
    )
    assert shown == []


def test_all_that_can_be_done_is_within_reach_of_the_keyboard(opened: Any) -> None:
    page = opened(viewport={"width": 400, "height": 740})
    scrollers = page.page.evaluate(
        "[...document.querySelectorAll('main *')].filter((one) => one.scrollWidth > one.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(one).overflowX)).map((one) => one.tabIndex)"
    )
    assert scrollers and set(scrollers) == {0}
    page.page.focus("#one [data-save=csv]")
    page.page.keyboard.press("Shift+Tab")  # by keyboard, focus is shown
    focused = "[document.activeElement.dataset.save, getComputedStyle(document.activeElement).outlineStyle]"
    assert page.page.evaluate(focused) == ["png", "solid"]


def test_in_a_viewer_that_frames_the_page_links_are_text(browser: Any, written: Path) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.evaluate(
        """(text) => {
          const frame = document.createElement("iframe");
          frame.sandbox = "allow-scripts";
          frame.width = frame.height = 800;
          frame.src = URL.createObjectURL(new Blob([text], { type: "text/html" }));
          document.body.append(frame);
        }""",
        written.read_text(encoding="utf-8"),
    )
    inside = page.frame_locator("iframe")
    inside.locator('.plot[data-card="one"][data-drawn="0"]').wait_for()
    links = inside.locator("a[href]").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
    assert links == [f"#{part.key}" for part in parts()]
    assert inside.locator(".up").inner_text() == "All models"
    assert inside.locator("#places .numbers").inner_text() == "Numbers: writers.parquet · run in MLflow"
    assert not inside.locator("[data-save]").first.is_visible()
    inside.locator("#page-writer").select_option("L0H1")
    inside.locator('.plot[data-card="one"][data-drawn="1"]').wait_for()
    inside.locator("nav summary").click()
    inside.locator("nav a[href='#table']").click()
    arrived = "(one) => [one === document.activeElement, window.scrollY > 500]"
    assert inside.locator("#table h2").evaluate(arrived) == [True, True]
    assert complaints == []
    context.close()
