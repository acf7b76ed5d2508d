"""MLflow's own pages on a small real sweep: models and numbers in the runs table, charts, and figures in its viewer.

The browser is kept from everything but this machine, as on one without a network.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.listening import listening_sockets
from tests.support.paths import ROOT
from tests.support.servers.cluster import free_port

pytestmark = pytest.mark.chromium

MODELS = ("toy-attn-2l", "toy-gelu-2l")
CONFIG = """
name: pages
models: [toy-attn-2l, toy-gelu-2l]
prompts: 8
block_prompts: 2
seq_len: 64
positions: 32
verify_prompts: 4
trust_prompts: 4
donors: 8
places: 2
top: 1
workers: 0
"""
CHARTS = '[data-testid="experiment-view-compare-runs-chart-area"]'


class Shown(NamedTuple):
    """Where MLflow's pages are."""

    server: str
    page: str
    """That ``erasure-sweep ui`` opened."""
    experiment: str
    runs: dict[str, str]
    """Ids by the run's name."""
    listening: set[str]
    """Addresses that its processes listen on."""

    def run(self, name: str) -> str:
        """Address of a run's page."""
        return f"{self.server}/#/experiments/{self.experiment}/runs/{self.runs[name]}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "erasure_sweep.sweep.commands", *arguments]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("mlflow")
    staging = tmp_path_factory.getbasetemp() / "staging"
    places = {"ERASURE_SWEEP_STAGING": str(staging), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    opened = folder / "browser"  # stands for the user's, and notes what it is asked to show
    opened.write_text('#!/bin/sh\nprintf "%s" "$1" > "$0.page"\n')
    opened.chmod(0o755)
    source = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "BROWSER": str(opened)}
    return {**os.environ, **places, **source, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shown(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, chromium: Path) -> Iterator[Shown]:
    """A sweep of two small models, logged by a run, in the UI that the command line starts."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "pages.yaml").write_text(CONFIG)
    ran = command("run", "pages.yaml", "--out", "out")
    done = subprocess.run(ran, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("pages").experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    port = free_port()
    with subprocess.Popen(
        command("ui", "--port", str(port)), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as ui:
        try:
            assert ui.stdout is not None
            said = next(found for line in ui.stdout if (found := re.search(r"MLflow runs at (\S+)", line)))
            listening = {socket.host for socket in listening_sockets(psutil.Process(ui.pid))}
            yield Shown(f"http://127.0.0.1:{port}", said[1], str(experiment), runs, listening)
        finally:
            ui.send_signal(signal.SIGINT)
            ui.wait()


def test_the_ui_listens_on_loopback_alone(shown: Shown) -> None:
    assert shown.listening == {"127.0.0.1"}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A wide window, so that all columns are in view; what it asks of other machines is refused, and fails the test."""
    asked: list[str] = []

    def guard(route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https") and address.hostname != "127.0.0.1":
            asked.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    context = browser.new_context(viewport={"width": 2000, "height": 950})
    context.route("**/*", guard)
    page = context.new_page()
    yield page
    context.close()
    assert asked == []


def viewer(page: Any, address: str) -> Any:
    """The document that an artifact's page shows."""
    page.goto(address)
    frame = page.wait_for_selector("iframe.mlflow-html-iframe, .mlflow-artifact-html-view iframe").content_frame()
    frame.wait_for_selector("h1")
    return frame


def draws(frame: Any, card: str) -> int:
    """How many marks the figure of a card has, once it is looked at."""
    plot = frame.locator(f'.plot[data-card="{card}"]').first
    plot.scroll_into_view_if_needed()
    frame.wait_for_selector(f'.plot[data-card="{card}"][data-drawn]')
    return int(
        plot.locator(
            ".plot-container :is(path.point, .point path, path.js-line, .heatmaplayer image, rect.point)"
        ).count()
    )


def test_opens_in_the_users_browser_on_the_models(shown: Shown, environment: dict[str, str], page: Any) -> None:
    assert Path(f"{environment['BROWSER']}.page").read_text() == shown.page
    assert f"/#/experiments/{shown.experiment}/runs?" in shown.page
    page.goto(shown.page)
    for name in MODELS:
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    header = page.locator(".ag-header")
    for column in ("erased/heads_median", "trust/settled_share", "n_layers", "n_params"):
        header.get_by_text(column, exact=True).first.wait_for()
    # the values of the columns, which a run that was not measured would not have
    cells = page.locator('.ag-cell[col-id="metrics.`erased/heads_median`"]')
    values = [text.strip() for text in cells.all_inner_texts()]
    assert len(values) == len(MODELS) + 1 and values.count("-") == 1
    measured = [float(text) for text in values if text != "-"]
    assert measured == sorted(measured, reverse=True)
    assert page.get_by_text("Erasure in language models").first.is_visible()


@pytest.mark.nightly
def test_charts_are_drawn(shown: Shown, page: Any) -> None:
    page.goto(f"{shown.page}&compareRunsMode=CHART")
    area = page.locator(CHARTS)
    area.get_by_text("Models side by side").wait_for()
    area.get_by_text("Parallel Coordinates").first.wait_for()
    area.get_by_text("Erasure against size and training").scroll_into_view_if_needed()
    page.wait_for_selector(f"{CHARTS} .scatterlayer .points path")
    # only the sweep's run has no point
    assert area.locator(".js-plotly-plot").first.locator(".scatterlayer .points path").count() == len(MODELS)


@pytest.mark.nightly
def test_a_model_opens_with_its_result(shown: Shown, page: Any) -> None:
    page.goto(shown.run("toy-gelu-2l"))
    page.get_by_text(re.compile("Most erased|Nothing is erased")).first.wait_for()
    page.get_by_text("stdlib", exact=False).first.wait_for()
    page.goto(shown.run("pages (2 models)"))
    page.get_by_text("Show more").first.click()
    with page.context.expect_page() as opened:
        page.get_by_role("table").get_by_role("link", name="toy-attn-2l", exact=True).first.click()
    opened.value.get_by_role("heading", name="toy-attn-2l").wait_for()


@pytest.mark.nightly
@pytest.mark.parametrize(("path", "card"), [("index.html", "presence"), ("figures/presence.html", "presence")])
def test_figures_are_drawn_in_the_viewer(shown: Shown, page: Any, path: str, card: str) -> None:
    frame = viewer(page, f"{shown.run('toy-gelu-2l')}/artifacts/{path}")
    assert "toy-gelu-2l" in frame.locator("h1").inner_text()
    assert draws(frame, card) > 0


@pytest.mark.nightly
def test_links_do_not_lead_astray_in_the_viewer(shown: Shown, page: Any) -> None:
    frame = viewer(page, f"{shown.run('toy-gelu-2l')}/artifacts/index.html")
    hrefs = frame.eval_on_selector_all("a[href]", "links => links.map((link) => link.getAttribute('href'))")
    assert hrefs and all(href.startswith("#") for href in hrefs)
    frame.get_by_text("Numbers:").first.wait_for(state="attached")


@pytest.mark.nightly
def test_the_machine_was_watched(shown: Shown, page: Any) -> None:
    page.goto(f"{shown.run('pages (2 models)')}/system-metrics")
    page.get_by_text("cpu_utilization_percentage").first.wait_for()
