"""Shapes are checked where every table of each kind of model stands beside the oracle, not again in what is built on that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.shapes import shapes_unchecked  # noqa: F401 a fixture

MEASURES = Path(__file__).parent / "workers" / "measures"
EVERY_TABLE = "test_architectures"


@pytest.fixture(scope="module", autouse=True)
def _where_shapes_are_known(request: pytest.FixtureRequest) -> None:
    if MEASURES in request.path.parents and request.path.stem != EVERY_TABLE:
        request.getfixturevalue("shapes_unchecked")
