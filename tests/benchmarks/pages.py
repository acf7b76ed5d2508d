"""The pages of large models: how many bytes they have, and how long a browser takes to open them.

Twelve models, each with the heads of GPT-2 small, on one comparison page, and the page of one of them. Opening is timed to
where everything in sight is drawn, and to where every figure of the page is; beside it stands a page with plotly.js and one
small figure, whose time is the browser's own. Models are invented: pages depend on how many writers there are, not on what
they do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from erasure_sweep.dashboards.html.document import write_document
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.pages import write_comparison, write_model_page
from erasure_sweep.dashboards.plots.theme import figure
from tests.benchmarks.settings import Settings
from tests.benchmarks.timing import Row, interleave, ratio_row, spread
from tests.conftest import CHROMIUM
from tests.support.fakes.tables import fake_manifest, fake_model

SUBJECT = "pages"
MB = 1_000_000
MOST_MB = 10.0
"""What the comparison of twelve models may have."""
_IN_SIGHT = "[...document.querySelectorAll('.plot')].every((plot) => plot.dataset.drawn !== undefined || away(plot))"
_AWAY = "(plot) => plot.getBoundingClientRect().top > innerHeight || plot.closest('[hidden]')"


def measure_pages(settings: Settings) -> Iterator[Row]:
    """Rows for the comparison page and one model's page."""
    shape = settings.pages
    names = f"{shape.n_models} models of {shape.n_layers} × {shape.n_heads} heads"
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        pages, writing = _write(settings, Path(folder))
        for name, aim in (("comparison", MOST_MB), ("model", None)):
            size = spread([pages[name].stat().st_size / MB])
            yield Row(SUBJECT, names, f"the {name} page, written in {writing[name]:.1f} s", "MB", size, target=aim)
        yield from _opening_rows(names, pages, settings.rounds)


def _write(settings: Settings, folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The pages, and how many seconds it took to write each."""
    shape = settings.pages
    models = [
        fake_model(
            f"model-{seed}",
            shape.n_layers,
            shape.n_heads,
            seed=seed,
            n_tokens=16,
            d_model=200,
            reading=True,
            verify=True,
        )
        for seed in range(shape.n_models)
    ]
    sweep = fake_manifest(models)
    alone = Card("One figure", "", {"0": figure([go.Scatter(x=[0, 1], y=[0, 1])], x_title="", y_title="")}, key="alone")
    pages = {name: folder / f"{name}.html" for name in ("comparison", "model", "plotly.js")}
    writers: dict[str, Callable[[], object]] = {
        "comparison": lambda: write_comparison(models, pages["comparison"], sweep, {}),
        "model": lambda: write_model_page(models[0], pages["model"], sweep),
        "plotly.js": lambda: write_document(pages["plotly.js"], "One figure", "", [alone]),
    }
    writing = {}
    for name, write in writers.items():
        start = time.perf_counter()
        write()
        writing[name] = time.perf_counter() - start
    return pages, writing


def _opening_rows(names: str, pages: dict[str, Path], rounds: int) -> Iterator[Row]:
    """Nothing where there is no chromium."""
    if not CHROMIUM.exists():
        return
    with _browser() as browser:
        cases = {
            (name, part): _opening(browser, page, part) for name, page in pages.items() for part in ("in sight", "all")
        }
        timings = interleave({f"{name}/{part}": case for (name, part), case in cases.items()}, rounds)
    beside = ("a page of plotly.js and one figure", timings["plotly.js/all"])
    for name in ("comparison", "model"):
        for part, said in (("in sight", "what is in sight is drawn"), ("all", "all figures are drawn")):
            measured = (f"opening the {name} page until {said}", timings[f"{name}/{part}"])
            # the browser is another process: the processor time of this one says nothing
            yield replace(ratio_row(SUBJECT, names, measured, beside), cpu=None)


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def _opening(browser: Any, page: Path, part: str) -> Callable[[], None]:
    def open_page() -> None:
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}, bypass_csp=True)
        opened = context.new_page()
        opened.goto(page.as_uri())
        if part == "all":
            opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
            opened.wait_for_selector(".plot:not([data-drawn])", state="detached", timeout=120_000)
        else:
            opened.wait_for_function(f"(() => {{ const away = {_AWAY}; return {_IN_SIGHT}; }})()", timeout=120_000)
        context.close()

    return open_page
