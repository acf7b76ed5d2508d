"""What modules share: a hub with a cache of its own; of those that disturb runs, each with its own ``bench``, the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input import Bench, Ran, assert_finished
from tests.hub import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def cache(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub, seen from this process with a cache of its own."""
    hub.use_in_process(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Ran:
    """An undisturbed run."""
    (bench.root / "measured").mkdir()
    ran = bench.run(bench.root / "measured" / "out")
    assert_finished(ran, "good")
    return ran
