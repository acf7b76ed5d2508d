"""The page of situations is made of its tests, each of which says what a user has and what happens."""

from __future__ import annotations

import ast

import pytest

from tests.support.paths import ROOT
from tests.support.situations_page import FOLDER, page, situations_in


def test_the_page_is_that_of_the_tests():
    written = (ROOT / "docs" / "situations.md").read_text(encoding="utf-8")
    assert written == page(), "docs/situations.md is stale: make docs"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_each_says_what_a_user_has_and_what_happens(name: str):
    module = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    assert ast.get_docstring(module)
    silent = [test.name for test in situations_in(module) if len((ast.get_docstring(test) or "").split("\n\n")) < 2]
    assert not silent, f"a docstring of two paragraphs is missing in {silent}"
