"""What the situations share with the tests of the whole, and what a finished run leaves, to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.bad_input import Ran
from tests.support.system_fixtures import *  # noqa: F403


@pytest.fixture
def copied(measured: Ran, out: Path) -> Path:
    """The folder that an undisturbed run left, to be damaged."""
    shutil.copytree(measured.out, out)
    return out
