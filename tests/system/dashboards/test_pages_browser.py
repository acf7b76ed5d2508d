"""The pages in a real browser, from disk and without a network: they draw, answer the keyboard and fit a phone."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.pages import write_comparison, write_model_page
from tests.support.fakes.tables import fake_checkpoints, fake_manifest, fake_model
from tests.support.fakes.written_pages import Opened

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    models = [
        fake_model("gelu-4l", 4, 8, seed=4, n_tokens=48, zero=("L1H3",), reading=True, verify=True),
        # a run that measured no V-composition
        fake_model("a<b>&\"'", 2, 3, attn_only=True, n_tokens=24, folder="odd"),
    ]
    sweep = fake_manifest(models)
    for model, name in zip(models, ("model", "odd"), strict=True):
        write_model_page(model, folder / f"{name}.html", sweep)
    write_comparison(models, folder / "compare.html", sweep, {"gelu-4l": Home("model.html")})
    deeper = [fake_model(f"toy-{n}l", n, 2, n_tokens=24, reading=True) for n in (1, 2, 6)]
    write_comparison(deeper, folder / "deeper.html", fake_manifest(deeper), {})
    trained = fake_checkpoints("toy-2l", (0, 65_536, 1_048_576), n_layers=2, n_heads=2, n_tokens=24)
    write_comparison(trained, folder / "trained.html", fake_manifest(trained), {})
    return folder


@pytest.fixture
def opened(browser: Any, pages: Path) -> Iterator[Any]:
    contexts = []

    def open_page(name: str, **options: Any) -> Opened:
        page = Opened(browser, pages / f"{name}.html", **options)
        contexts.append(page.context)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    "name",
    ["model", "compare", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("odd", "deeper", "trained"))],
)
def test_every_figure_draws_without_errors_or_requests(opened: Any, name: str) -> None:
    page = opened(name)
    assert page.complaints == []
    empty = page.page.evaluate(
        "[...document.querySelectorAll('.plot')].filter((plot) => !plot.querySelector('.trace, .hm, .waterfalllayer .trace'))"
        ".map((plot) => plot.dataset.card)"
    )
    assert empty == []
    assert page.page.query_selector("[data-title*='loud']") is None


def test_figures_draw_when_scrolled_to(browser: Any, pages: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    page.goto((pages / "model.html").as_uri())
    for card in ("ledger", "heatmaps"):
        assert page.get_attribute(f'.plot[data-card="{card}"]', "data-drawn") is None
        page.locator(f"#{card}").scroll_into_view_if_needed()
        page.wait_for_selector(f'.plot[data-card="{card}"][data-drawn]')
    page.close()


def test_choosing_a_writer_redraws_and_says_it(opened: Any) -> None:
    page = opened("model")
    page.page.select_option("#ledger select >> nth=0", label="pos_embed")
    page.page.select_option("#ledger select >> nth=1", label="means removed")
    key = page.page.eval_on_selector_all("#ledger select", "(all) => all.map((one) => one.value).join('.')")
    page.wait_drawn("ledger", key)
    assert key.endswith(".1")
    assert page.page.inner_text("#ledger-sentence").startswith("pos_embed: ")
    assert page.complaints == []


def test_clean_beside_patched_of_a_chosen_writer(opened: Any) -> None:
    page = opened("model")
    page.page.select_option("#patched select >> nth=0", label="pos_embed")
    page.page.select_option("#patched select >> nth=1", label="whole layers")
    key = page.page.eval_on_selector_all("#patched select", "(all) => all.map((one) => one.value).join('.')")
    page.wait_drawn("patched", key)
    assert "of pos_embed's output" in page.page.inner_text("#patched-sentence")
    ticks = page.page.eval_on_selector_all("#patched .xtick text", "(all) => all.map((one) => one.textContent)")
    assert ticks == ["attn0", "attn1", "attn2", "attn3", "all later"]
    assert page.complaints == []


@pytest.mark.nightly
@pytest.mark.parametrize("card", ["causal", "dla"])
def test_maps_follow_all_their_controls(opened: Any, card: str) -> None:
    page = opened("model")
    for index in range(3):
        page.page.select_option(f"#{card} select >> nth={index}", index=1)
    page.wait_drawn(card, "1.1.1")
    # and the first of them back, which may have begun with its second choice
    page.page.select_option(f"#{card} select >> nth=0", index=0)
    page.wait_drawn(card, "0.1.1")
    assert page.complaints == []


def test_two_of_several_causal_maps_are_chosen(opened: Any) -> None:
    page = opened("deeper")
    maps = "#causal .plot"
    drawn = f"[...document.querySelectorAll('{maps}')].map((plot) => plot.dataset.drawn)"
    # outputs, which begin with means removed, erasers, then the panel's model
    assert page.page.evaluate(drawn) == ["1.0.1", "1.0.2"]
    page.page.select_option("#causal [data-panel='0']", label="toy-6l")
    page.page.select_option("#causal select >> nth=1", label="heads")
    page.page.wait_for_selector(f"{maps}[data-panel='0'][data-drawn='1.1.2']")
    page.page.wait_for_selector(f"{maps}[data-panel='1'][data-drawn='1.1.2']")
    page.page.select_option("#causal [data-panel='1']", label="toy-1l")
    page.page.wait_for_selector(f"{maps}[data-panel='1'][data-drawn='1.1.0']")
    assert page.page.evaluate(drawn) == ["1.1.2", "1.1.0"]
    page.page.select_option("#causal select >> nth=0", label="as they are")
    page.page.wait_for_selector(f"{maps}[data-panel='1'][data-drawn='0.1.0']")
    assert page.page.evaluate(drawn) == ["0.1.2", "0.1.0"]
    assert page.complaints == []


def test_the_layer_slider_answers_the_keyboard(opened: Any) -> None:
    page = opened("model")
    page.page.focus("#layers input")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    page.wait_drawn("layers", "2")
    assert page.page.inner_text("#layers output") == "layer 1"
    assert page.page.get_attribute("#layers input", "aria-valuetext") == "layer 1"
    assert "Not measured, or zero everywhere: L1H3" in page.page.inner_text("#layers-sentence")


def test_the_table_sorts_by_keyboard_and_filters(opened: Any) -> None:
    page = opened("model")
    written = "#writers thead th:has(button:text-is('written'))"
    place = page.page.eval_on_selector(written, "(heading) => heading.cellIndex + 1")
    column = f"[...document.querySelectorAll('#writers tbody td:nth-child({place})')].map((cell) => cell.dataset.value)"
    page.page.focus(f"{written} button")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        page.page.keyboard.press("Enter")
        assert page.page.get_attribute(written, "aria-sort") == direction
        values = page.page.evaluate(column)
        assert values[-1] == ""
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, key=lambda number: sign * number)
    page.page.fill("#writers input", "mlp")
    visible = page.page.eval_on_selector_all(
        "#writers tbody tr:not([hidden]) th", "(all) => all.map((one) => one.textContent)"
    )
    assert sorted(visible) == ["MLP0", "MLP1", "MLP2", "MLP3"]


@pytest.mark.parametrize("name", ["model", "compare", pytest.param("trained", marks=pytest.mark.nightly)])
def test_every_figure_and_table_can_be_saved(opened: Any, name: str) -> None:
    page = opened(name)
    numbers = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")
    buttons = page.page.locator("[data-save=csv]:visible, [data-save-table]:visible")
    assert buttons.count() > 5
    for at in range(buttons.count()):
        page.page.wait_for_timeout(120)  # of more than ten files in a second chromium drops some
        file, content = page.saved(buttons.nth(at))
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
        assert len(rows) > 1, file
        assert {len(row) for row in rows} == {len(rows[0])}, file
        cells = {cell for row in rows[1:] for cell in row}
        assert any(numbers.fullmatch(cell) for cell in cells), file
        assert not cells & {"undefined", "NaN", "null", "[object Object]", "Infinity"}, file
    for card in ("ledger", "causal", "erased") if name == "model" else ("causal", "depth"):
        _, content = page.saved(page.page.locator(f"#{card} [data-save=svg]").first)
        assert content.count(b"<path") + content.count(b"<image") > 3
    assert page.complaints == []


def test_one_writer_for_a_whole_model(browser: Any, pages: Path) -> None:
    page = Opened(browser, pages / "model.html", "#writer=L0H2")
    shown = page.page.eval_on_selector_all(
        "select[data-writers]",
        "(all) => all.map((one) => [one.dataset.control, one.selectedOptions[0].text.split(' ←')[0]])",
    )
    away = {card: writer for card, writer in shown if writer != "L0H2"}
    assert {"presence", "onto", "patched", "ledger"} <= {card for card, _ in shown} - set(away)
    said = page.page.eval_on_selector_all(
        ".absent:not(:empty)", "(all) => all.map((one) => one.closest('section').id + ' ' + one.textContent)"
    )
    there = [f"{'these are' if ' ' in writer else 'this is'} {writer}" for writer in away.values()]
    assert said == [f"{card} L0H2 is not shown here; {one}" for card, one in zip(away, there, strict=True)]
    assert page.page.inner_text("#ledger-sentence").startswith("L0H2: ")
    page.context.close()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["model", "compare"])
def test_colours_follow_the_scheme(opened: Any, name: str) -> None:
    page = opened(name, color_scheme="light")
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    light = page.page.evaluate(ink)
    page.page.emulate_media(color_scheme="dark")
    page.wait_until(lambda: page.page.evaluate(ink) != light)
    assert (light, page.page.evaluate(ink)) == ("rgb(27, 31, 36)", "rgb(230, 232, 235)")


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["model", "odd", "compare", "deeper"])
def test_a_phone_scrolls_in_one_direction(opened: Any, name: str) -> None:
    page = opened(name, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.page.query_selector(".modebar-btn") is None


def test_odd_names_are_shown_as_they_are(opened: Any) -> None:
    page = opened("compare")
    odd = "a<b>&\"'"
    assert odd in page.page.inner_text("#models tbody")
    ticks = page.page.eval_on_selector_all("#opposed .xtick text", "(all) => all.map((one) => one.textContent)")
    assert ticks == ["gelu-4l", odd]


@pytest.mark.nightly
def test_the_comparison_leads_to_a_models_page(opened: Any) -> None:
    page = opened("compare")
    page.page.click("#models a")
    page.page.wait_for_selector("h1:has-text('Erasure in gelu-4l')")
