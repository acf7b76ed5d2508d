"""Whether shapes and types of ``workers`` are checked while tests run."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def shapes_unchecked() -> Iterator[None]:
    """Shapes are checked where measures stand beside the oracle; elsewhere checking would take longer than measuring."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
