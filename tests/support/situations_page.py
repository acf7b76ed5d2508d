"""The page of situations, ``docs/situations.md``, made from the docstrings of ``tests/situations``: ``make docs`` writes it.

A test there says in its docstring's first line what the user has, and below it what happens; the docstring of a file is
the heading of its tests.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

FOLDER = ROOT / "tests" / "situations"

_HEAD = """# Will it work with …?

Made from the tests in `tests/situations` by `make docs`; change those, not this page. Each row is a situation that somebody
met, here or in a neighbouring project, and a test that holds what is said.
"""


def page() -> str:
    """The page in markdown."""
    return "\n".join([_HEAD, *(_section(path) for path in sorted(FOLDER.glob("test_*.py")))])


def _section(path: Path) -> str:
    module = ast.parse(path.read_text(encoding="utf-8"))
    rows = [_row(test) for test in situations_in(module)]
    heading = (ast.get_docstring(module) or path.stem).splitlines()[0].rstrip(".")
    return "\n".join([f"## {heading}", "", "| situation | what happens | test |", "| --- | --- | --- |", *rows, ""])


def situations_in(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """The test functions of a file, those of its classes included, in order."""
    for node in module.body:
        for part in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(part, ast.FunctionDef) and part.name.startswith("test_"):
                yield part


def _row(test: ast.FunctionDef) -> str:
    situation, _, outcome = (ast.get_docstring(test) or "").partition("\n")
    cells = (situation.rstrip("."), " ".join(outcome.split()), f"`{test.name}`")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
