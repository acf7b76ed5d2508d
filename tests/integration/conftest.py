"""What the modules that disturb runs have in common; each has its own ``bench``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_input import Bench, Ran, assert_finished


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
