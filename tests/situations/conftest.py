"""What the situations share with the tests of the whole, and what a finished run leaves, to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.bad_input import Ran
from tests.support.system_fixtures import (
    bench,
    cache,
    cleaned,
    helper,
    hub,
    measured,
    out,
    s3,
    s3_server,
    shapes_unchecked,
)

__all__ = [
    "bench",
    "cache",
    "cleaned",
    "copied",
    "helper",
    "hub",
    "measured",
    "out",
    "s3",
    "s3_server",
    "shapes_unchecked",
]


@pytest.fixture
def copied(measured: Ran, out: Path) -> Path:
    """The folder that an undisturbed run left, to be damaged."""
    shutil.copytree(measured.out, out)
    return out
