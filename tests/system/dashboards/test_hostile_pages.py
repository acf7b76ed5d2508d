"""Names and tokens that try to be something else, and results with next to nothing in them, in a real browser.

Whatever a model is called and whatever its tokens are, they are shown as text: nothing of them is run, loaded or laid out as
markup, and text that is written from right to left does not turn what stands beside it. Where there is nothing to show, the
page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.pages import write_comparison, write_model_page
from erasure_sweep.workers.printable import printable
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_checkpoints, fake_manifest, fake_model, model_tables

pytestmark = pytest.mark.chromium

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '" onmouseover="alert(1)" \'',
    "&amp;lt;&#x41;",
    "%{x}<br><b>bold</b>",
    "نموذج لغوي",
    "\u202eodd\u202c",
    "👩‍🔬🧪",
    "$\\alpha$ {{7*7}} `x`",
    "javascript:alert(1)",
    "a/../b c",
)
COMPLAIN = "window.told = []; window.alert = (said) => window.told.push(said);"


def hostile_model(name: str, seed: int) -> ModelTables:
    """A verified model whose name, tokens and texts are hostile."""
    model = fake_model(name, 2, 3, seed=seed, n_tokens=24, reading=True, verify=True, folder=f"folder-{seed}")
    rng = np.random.default_rng(seed)
    tables = {}
    for key, table in model.tables.items():
        columns = [column for column in ("token", "top", "second", "text") if column in table]
        tables[key] = table.assign(**{column: rng.choice(HOSTILE, len(table)) for column in columns})
    return model_tables(
        {**model.about.to_json(), "corpus_name": HOSTILE[seed % len(HOSTILE)], "reason": HOSTILE[0]}, tables
    )


class Visit:
    """A page with everything drawn, and what it complained of."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.context = browser.new_context(offline=True, color_scheme=scheme)
        self.context.add_init_script(COMPLAIN)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._note)
        self.page.goto(path.as_uri())
        self.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        self.page.wait_for_selector(".plot:not([data-drawn])", state="detached")

    def _note(self, request: Any) -> None:
        if request.url.startswith(("http", "ws", "ftp")):
            self.complaints.append(request.url)

    @property
    def text(self) -> str:
        return str(self.page.evaluate("document.body.textContent"))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_page(path: Path, scheme: str = "light") -> Visit:
        visits.append(Visit(browser, path, scheme))
        return visits[-1]

    yield open_page
    for one in visits:
        one.context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    models = [hostile_model(name, seed) for seed, name in enumerate(HOSTILE)]
    sweep = fake_manifest(models, name=HOSTILE[0])
    write_comparison(models, folder / "compare.html", sweep, {})
    for seed in (0, 1, 6):
        write_model_page(models[seed], folder / f"{seed}.html", sweep)
    return folder


@pytest.mark.parametrize(
    "page", ["compare", "0", *(pytest.param(page, marks=pytest.mark.nightly) for page in ("1", "6"))]
)
def test_nothing_hostile_is_run(visit: Callable[..., Visit], hostile: Path, page: str) -> None:
    opened = visit(hostile / f"{page}.html")
    opened.page.hover("#causal .plot >> nth=0")
    assert opened.complaints == []
    assert opened.page.evaluate("window.told") == []
    assert opened.page.locator("main img, main iframe, main script:not([type])").count() == 0
    links = opened.page.eval_on_selector_all("a[href]", "(all) => all.map((one) => one.protocol)")
    assert set(links) <= {"file:"}
    handlers = "[...document.querySelectorAll('*')].flatMap((one) => [...one.attributes]).map(({ name }) => name)"
    assert [name for name in opened.page.evaluate(handlers) if name.lower().startswith("on")] == []


def test_hostile_names_and_tokens_are_shown_as_they_are(visit: Callable[..., Visit], hostile: Path) -> None:
    comparison = visit(hostile / "compare.html")
    models = comparison.page.inner_text("#models tbody")
    assert [name for name in HOSTILE if name not in models] == []
    ticks = comparison.page.eval_on_selector_all("#erased .xtick text", "(all) => all.map((one) => one.textContent)")
    # plotly would read %{…} as a place for a number
    assert [tick.replace("\u200b", "") for tick in ticks] == [printable(name) for name in HOSTILE]
    tokens = visit(hostile / "0.html").text
    assert [token for token in HOSTILE if token not in tokens] == []


def test_right_to_left_text_does_not_turn_its_neighbours(visit: Callable[..., Visit], hostile: Path) -> None:
    """Every piece of text that may hold some is isolated."""
    opened = visit(hostile / "compare.html")
    isolation = "(e) => getComputedStyle(e).unicodeBidi"
    name = opened.page.locator("#models tbody th", has_text=HOSTILE[6]).first
    inner = name.locator(":scope > *").first
    found = {name.evaluate(isolation), inner.evaluate(isolation) if inner.count() else ""}
    assert found & {"isolate", "isolate-override", "plaintext"}


def emptied(model: ModelTables, how: str) -> ModelTables:
    """A model of which something is missing."""
    tables = dict(model.tables)
    if how == "no tables":
        return model_tables(model.about, {})
    if how == "no writers":
        return model_tables(model.about, {key: table for key, table in tables.items() if key != "writers"})
    if how == "no rows":
        return model_tables(model.about, {key: table.iloc[:0] for key, table in tables.items()})
    if how == "nulls":
        nulled = {key: table.copy() for key, table in tables.items()}
        for table in nulled.values():
            numbers = table.select_dtypes("number").columns
            table[numbers] = table[numbers].astype(float) * np.nan
        return model_tables(model.about, nulled)
    assert how == "nothing erased"
    writers: pd.DataFrame = tables["writers"].assign(erased=0.0, erased_centred=0.0, erasers="", significant_erasers=0)
    betas = tables["v_composition"].assign(beta=0.0, beta_centred=0.0)
    return model_tables(model.about, {**tables, "writers": writers, "v_composition": betas})


@pytest.mark.parametrize(
    ("how", "scheme"),
    [
        ("no tables", "light"),
        pytest.param("no writers", "dark", marks=pytest.mark.nightly),
        pytest.param("no rows", "light", marks=pytest.mark.nightly),
        ("nulls", "dark"),
        ("nothing erased", "light"),
    ],
)
def test_next_to_nothing_is_said_in_words(visit: Callable[..., Visit], tmp_path: Path, how: str, scheme: str) -> None:
    full = fake_model("m", 2, 2, n_tokens=24, reading=True, verify=True)
    model = emptied(full, how)
    write_model_page(model, tmp_path / "m.html", fake_manifest([model]))
    write_comparison([model], tmp_path / "one.html", fake_manifest([model]), {})
    write_comparison([full, model], tmp_path / "two.html", fake_manifest([full, model]), {})
    write_comparison([], tmp_path / "none.html", fake_manifest([]), {})
    for name in ("m", "one", "two", "none"):
        opened = visit(tmp_path / f"{name}.html", scheme)
        assert opened.complaints == []
        bare = "[...document.querySelectorAll('section.card')].filter((card) => !card.querySelector('.plot, table, p')).length"
        assert opened.page.evaluate(bare) == 0
        assert not {"NaN", "nan", "undefined", "None"} & set(visible_words(opened)), name


def visible_words(opened: Visit) -> list[str]:
    return str(opened.page.evaluate("document.querySelector('main').innerText")).replace(",", " ").split()


def test_checkpoints_of_a_hostile_name(visit: Callable[..., Visit], tmp_path: Path) -> None:
    trained = fake_checkpoints(HOSTILE[1], (0, 65_536, 1_048_576), n_layers=2, n_heads=2, n_tokens=24)
    write_comparison(trained, tmp_path / "page.html", fake_manifest(trained), {})
    opened = visit(tmp_path / "page.html")
    assert opened.complaints == [] and opened.page.evaluate("window.told") == []
    assert HOSTILE[1] in opened.page.inner_text("main")
