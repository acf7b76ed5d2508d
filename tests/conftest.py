"""What every test stands on: fixed seeds, one thread, and nothing that reaches the user's own caches and stores.

Shapes and types of ``workers`` are checked while testing, by jaxtyping's pytest option in ``pyproject.toml``; processes
that tests start, Ray's workers among them, are not checked.

Tiers are folders: ``fast`` (no process, no page), ``pages`` (what is drawn, from tables of fakes), ``numeric`` (against the
oracle), ``system`` (processes, Ray, MLflow, a browser, stand-ins for services), ``situations`` (what users have met, a test
each) and ``nightly``, which ``make test`` leaves out, as it does further seeds of other tests.

Under xdist, tests that share something expensive run in one process: those of the group ``ray``, because two clusters
would starve each other, and each other file of system tests, because of its servers and browsers.

``tests`` has no ``__init__.py``: with one, pytest would take it for a part of the checkout's package, whose ``__init__.py``
and this file would then be imported twice. Tests import ``erasure_sweep.…`` and ``tests.…`` only.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

CHROMIUM = Path("/usr/bin/chromium")
SYSTEM = [Path(__file__).parent / "system", Path(__file__).parent / "situations"]
NIGHTLY = Path(__file__).parent / "nightly"

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_own_folder = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything that reads it on import is imported."""
    config.stash[_own_folder] = folder = tempfile.TemporaryDirectory(prefix="erasure-sweep-tests-")
    _heed_what_is_ignored()
    os.environ.update(QUIET)
    os.environ["HF_HOME"] = str(Path(folder.name, "huggingface"))
    for variable in ("RAY_ADDRESS", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        os.environ.pop(variable, None)


def _heed_what_is_ignored() -> None:
    """What ignores a signal hands that on to the processes that it starts, and some tests send them these.

    SIGINT is ignored by jobs in a shell's background, SIGHUP by what ``nohup`` starts: pytest itself goes on ignoring that.
    """
    for kind, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
        if signal.getsignal(kind) is signal.SIG_IGN:
            signal.signal(kind, handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_own_folder].cleanup()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups and -m the tiers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is nightly, and keep each file of system tests together, unless it says its group itself."""
    for item in items:
        if NIGHTLY in item.path.parents:
            item.add_marker(pytest.mark.nightly)
        if any(folder in item.path.parents for folder in SYSTEM) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU here")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """The same numbers whichever tests ran before, on one thread as workers have it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Staging, shared by the tests of a session, and an MLflow store for each test, away from the user's."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("ERASURE_SWEEP_STAGING", str(base / "staging"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")


def without_tool(reason: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and REQUIRE_ALL=1 allows no skips")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Path of Debian's chromium, for tests that need it."""
    if not CHROMIUM.exists():
        without_tool(f"{CHROMIUM} is not installed (apt-get install chromium)")
    return CHROMIUM


@pytest.fixture(scope="module")  # not longer: playwright keeps an event loop running in this thread
def browser(chromium: Path) -> Iterator[Any]:
    """A running browser, whose pages wait for as long as a test may take."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"], timeout=0)
        new_context = running.new_context

        def patient_context(**options: Any) -> Any:
            context = new_context(**options)
            context.set_default_timeout(0)
            return context

        running.new_context = patient_context
        yield running
        running.close()
