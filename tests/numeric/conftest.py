"""Shapes are checked where every table of a kind of model stands beside the oracle, and not again in what is built on that."""

from __future__ import annotations

import pytest

from tests.support.shapes import shapes_unchecked  # noqa: F401 a fixture

BUILT_ON_THAT = ("test_coverage", "test_first_position", "test_lengths", "test_significance", "test_trust")


@pytest.fixture(scope="module", autouse=True)
def _where_shapes_are_known(request: pytest.FixtureRequest) -> None:
    if "planted" in request.path.stem or request.path.stem in BUILT_ON_THAT:
        request.getfixturevalue("shapes_unchecked")
