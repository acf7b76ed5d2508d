"""Pages written from invented tables, and what tests read in them."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.pages import ModelTables, write_comparison, write_model_page
from tests.support.fakes.tables import fake_manifest

NASTY = "<img src=x onerror=\"alert(1)\"></script><script>alert('2')</script> & co"


def embedded(page: str, card: str) -> dict[str, Any]:
    """The figures that a page holds for one card."""
    found = re.search(f'<script type="application/json" id="{card}-figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


_written: deque[tuple[list[ModelTables], str, str]] = deque(maxlen=6)
"""Pages that were written last: of which models, which kind, and the text. Tests look at one page many times."""


def _written_once(models: list[ModelTables], kind: str, write: Callable[[], str]) -> str:
    for of, which, text in _written:
        if which == kind and len(of) == len(models) and all(a is b for a, b in zip(of, models, strict=True)):
            return text
    _written.append((models, kind, write()))
    return _written[-1][2]


def model_page(model: ModelTables, folder: Path, **changes: Any) -> str:
    def write() -> str:
        path = folder / "deep" / "page.html"
        write_model_page(model, path, fake_manifest([model], **changes))
        assert [child.name for child in path.parent.iterdir()] == ["page.html"]
        return path.read_text(encoding="utf-8")

    return write() if changes else _written_once([model], "model", write)


def comparison(models: list[ModelTables], folder: Path, homes: dict[str, Home] | None = None, **changes: Any) -> str:
    def write() -> str:
        path = folder / "compare.html"
        known = {key: value for key, value in changes.items() if key != "left_out"}
        write_comparison(models, path, fake_manifest(models, **known), homes or {}, changes.get("left_out", ()))
        return path.read_text(encoding="utf-8")

    return write() if homes or changes else _written_once(list(models), "comparison", write)


def without_plotly(page: str) -> str:
    return re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)


def broken(model: ModelTables) -> dict[str, dict[str, pd.DataFrame]]:
    """Ways in which tables can be less than the contract says."""
    tables = model.tables
    stats = ["q12_5", "q25", "median", "q75", "q87_5", "mean", "beta", "beta_centred"]
    seen = [name for name in tables["residual_projection"] if name.startswith("effective_") or name == "diluted"]
    numbers = ["written", "remaining", "reinforced", "opposed", "opposed_centred", "written_centred"]
    nulls = {
        "residual_projection": tables["residual_projection"].assign(**dict.fromkeys([*stats, *seen], None), n=0),
        "component_projection": tables["component_projection"].assign(**dict.fromkeys(stats, None), n=0),
        "writers": tables["writers"].assign(**dict.fromkeys(numbers, None), opposing=None),
    }
    return {
        "no tables": {},
        "only writers": {"writers": tables["writers"]},
        "only residual": {"residual_projection": tables["residual_projection"]},
        "only components": {"component_projection": tables["component_projection"]},
        "no rows": {name: table.iloc[:0] for name, table in tables.items()},
        "no columns": {name: pd.DataFrame() for name in tables},
        "all null": nulls,
        "infinite": {name: table.replace({1.0: np.inf}) for name, table in tables.items()},
    }


def sections(page: str) -> list[str]:
    return re.findall(r'<section class="card" id="(.*?)"', page)


class Opened:
    """A page in a browser without a network, drawn whole; ``complaints`` are its errors and requests beyond the file."""

    def __init__(self, browser: Any, path: Path, address: str = "", **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._note_request)
        self.page.goto(path.as_uri() + address)
        self.draw_all()

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def draw_all(self) -> None:
        # figures draw when they come into view, and all before printing
        self.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        self.page.wait_for_selector(".plot:not([data-drawn])", state="detached")

    def wait_until(self, condition: Callable[[], object]) -> None:
        """As its scripts and styles go on; the page's own policy forbids evaluating strings in it."""
        while not condition():
            self.page.wait_for_timeout(20)

    def wait_drawn(self, card: str, key: str) -> None:
        self.page.wait_for_selector(f'.plot[data-card="{card}"][data-drawn="{key}"]')

    def saved(self, button: Any) -> tuple[str, bytes]:
        """Name and content of the file that a button, or the one of this selector, hands out."""
        with self.page.expect_download() as download:
            (self.page.locator(button) if isinstance(button, str) else button).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()
