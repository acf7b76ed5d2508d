"""How a page looks on a dark screen, on a narrow one, and at the edges of what scrolls, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.parts import Card, Control, HtmlColumn, HtmlTable, Part
from erasure_sweep.dashboards.plots.theme import BLANK, BLUE, GREY, ON_DARK, VERMILLION, figure, shade
from tests.support.fakes.page import heat
from tests.support.fakes.written_pages import Opened

pytestmark = pytest.mark.chromium

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def coloured() -> go.Figure:
    """Every place in which a figure has a colour, and a text that looks like one."""
    line = {"color": BLUE, "dash": "dot"}
    data = [
        go.Scatter(x=[0, 1], y=[0, 1], name=BLUE, line=line, fillcolor=shade(BLUE, 0.25), fill="tozeroy"),
        go.Scatter(x=[0, 1], y=[1, 0], name="two", mode="markers", marker={"color": [VERMILLION, BLUE], "size": 9}),
        go.Scatter(x=[0, 1], y=[1, 2], name="three", hovertext=[BLUE, BLUE]),
    ]
    shape = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "line": {"color": shade(GREY, 0.5)}}
    return figure(data, x_title="x", y_title="y", height=300, shapes=[shape], showlegend=True)


def long_table(key: str, n_rows: int) -> HtmlTable:
    columns = [
        HtmlColumn("a name that is rather long for a column"),
        *(HtmlColumn(f"number {n}", "", True) for n in range(9)),
    ]
    return HtmlTable(key, "c", columns, [[f"a long name of row {row}", *range(9)] for row in range(n_rows)], key=key)


def parts() -> list[Part]:
    return [
        Card("One", "c", {"0": coloured()}, key="one"),
        Card("Map", "c", {"0": heat()}, [Control("Of", ["all"])], key="map"),
        Card("Broad", "c", {"0": coloured()}, min_width=900, key="broad"),
        long_table("short", 20),
        long_table("long", 60),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_document(path, "Looks", "", parts())
    return path


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Any]:
    contexts = []

    def open_page(**options: Any) -> Opened:
        page = Opened(browser, written, **options)
        contexts.append(page.context)
        return page

    yield open_page
    for context in contexts:
        context.close()


def drawn(page: Opened, card: str, path: str) -> Any:
    """Something of a figure as it is given to plotly."""
    return page.page.evaluate(f"document.querySelector('#{card} .plot').{path}")


class TestDark:
    def test_colours_are_lighter_wherever_they_stand(self, opened: Any) -> None:
        page = opened(color_scheme="dark")
        light, lightest = ON_DARK[BLUE], ON_DARK[GREY]
        red, green, blue = (int(light[at : at + 2], 16) for at in (1, 3, 5))
        assert drawn(page, "one", "data[0].line.color") == light
        assert drawn(page, "one", "data[0].fillcolor") == f"rgba({red},{green},{blue},0.25)"
        assert drawn(page, "one", "data[1].marker.color") == [ON_DARK[VERMILLION], light]
        assert drawn(page, "one", "layout.shapes[0].line.color") == shade(lightest, 0.5)
        assert drawn(page, "map", "layout.plot_bgcolor") == ON_DARK[BLANK]
        assert drawn(page, "one", "layout.template.layout.colorway[1]") == light
        assert page.complaints == []

    def test_texts_stay(self, opened: Any) -> None:
        page = opened(color_scheme="dark")
        assert drawn(page, "one", "data[0].name") == BLUE
        assert drawn(page, "one", "data[2].hovertext") == [BLUE, BLUE]

    def test_light_pages_and_images_have_the_colours_as_they_are(self, opened: Any) -> None:
        page = opened(color_scheme="light")
        assert drawn(page, "one", "data[0].line.color") == BLUE
        assert drawn(page, "map", "layout.plot_bgcolor") == BLANK
        dark = opened(color_scheme="dark")
        for card in ("one", "map"):
            light, also_light = (re.findall(r"rgba?\(.*?\)", self.saved_svg(one, card)) for one in (page, dark))
            assert light and light == also_light
        assert "rgb(0, 114, 178)" in self.saved_svg(dark, "one")
        assert drawn(dark, "one", "data[0].line.color") == ON_DARK[BLUE]

    @staticmethod
    def saved_svg(page: Opened, card: str) -> str:
        return page.saved(f"#{card} [data-save=svg]")[1].decode()

    def test_blank_cells_of_a_map_have_a_ground_of_their_own(self, opened: Any) -> None:
        page = opened(color_scheme="light")
        ground = "getComputedStyle(document.querySelector('#map .plot .bg')).fill"
        assert page.page.evaluate(ground) == "rgb({}, {}, {})".format(
            *(int(BLANK[at : at + 2], 16) for at in (1, 3, 5))
        )


class TestNarrow:
    def test_letters_are_smaller_and_a_legend_is_in_sight(self, opened: Any) -> None:
        page = opened(**PHONE)
        assert [drawn(page, card, "layout.legend.font.size") for card in ("one", "broad")] == [11, 11]
        assert drawn(page, "broad", "layout.legend.orientation") == "v"
        assert drawn(page, "one", "layout.legend.orientation") is None
        ends = "(all) => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
        for card in ("one", "broad"):
            assert page.page.eval_on_selector_all(f"#{card} .legendtext", ends) <= 360

    def test_wide_screens_are_left_as_they_are(self, opened: Any) -> None:
        page = opened(viewport={"width": 1000, "height": 700})
        assert drawn(page, "broad", "layout.legend") is None

    def test_a_name_leaves_room_for_its_numbers(self, opened: Any) -> None:
        page = opened(**PHONE)
        assert page.page.locator("#short tbody th").first.bounding_box()["width"] <= 170
        assert page.page.evaluate("document.documentElement.scrollWidth") == 360


class TestEdges:
    @staticmethod
    def wait_for(page: Opened, **marks: set[str]) -> None:
        """Which edges of each part are marked, once the page has seen to it."""
        page.page.wait_for_timeout(150)
        found = {part: page.page.locator(f"#{part} .edges") for part in marks}
        page.wait_until(
            lambda: {key: set(each.get_attribute("class").split()) - {"edges"} for key, each in found.items()} == marks
        )

    def test_of_a_wide_figure(self, opened: Any) -> None:
        page = opened(**PHONE)
        hint = "getComputedStyle(document.querySelector('#broad .edges'), '::before').content"
        self.wait_for(page, one=set(), broad={"right"})
        assert "scroll" in page.page.evaluate(hint)
        page.page.evaluate("document.querySelector('#broad .scroll').scrollLeft = 100")
        self.wait_for(page, broad={"left", "right"})
        assert page.page.evaluate(hint) == "none"
        page.page.evaluate("document.querySelector('#broad .scroll').scrollLeft = 9999")
        self.wait_for(page, broad={"left"})

    def test_of_tables(self, opened: Any) -> None:
        page = opened(viewport={"width": 1300, "height": 700})
        self.wait_for(page, short=set(), long={"below"})
        page.page.evaluate("document.querySelector('#long .table').scrollTop = 99999")
        self.wait_for(page, long=set())
        page.page.evaluate("document.querySelector('#long .table').scrollTop = 0")
        page.page.fill("#long input", "row 59")
        self.wait_for(page, long=set())

    def test_nothing_of_it_on_paper(self, opened: Any) -> None:
        page = opened(**PHONE)
        page.page.emulate_media(media="print")
        shown = "getComputedStyle(document.querySelector('#broad .edges'), '::after').display"
        assert page.page.evaluate(shown) == "none"
