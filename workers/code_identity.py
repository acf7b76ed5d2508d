"""Which code this process runs: a hash of the package's modules, and where they lie.

Two processes of one sweep have to run the same code, or their numbers are not of one kind. The hash covers the modules of
the three folders and the package's own ``__init__.py`` by relative path and content, so that a checkout and a wheel made
from it have the same. What else lies in a checkout (tests, environments, builds) is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.fingerprint import fingerprint

FOLDERS = ("sweep", "workers", "dashboards")


class CodeIdentity(NamedTuple):
    """The package that a process runs."""

    hash: str
    folder: str


@cache
def code_identity() -> CodeIdentity:
    """Of this process; read once, because files may change while it runs the ones that it has loaded."""
    package = Path(__file__).parent.parent
    return CodeIdentity(hash_code(package), str(package))


def hash_code(package: Path) -> str:
    """Sixteen hex digits of the modules of a package that lies in this folder."""
    modules = (
        f"{path.relative_to(package).as_posix()}\n{fingerprint(path.read_bytes())}\n" for path in _modules(package)
    )
    return fingerprint(*modules, n_bytes=8)


def _modules(package: Path) -> Iterator[Path]:
    """In the order of their paths; without hidden files and folders, in which editors keep copies."""
    yield package / "__init__.py"
    for folder in FOLDERS:
        for path in sorted((package / folder).rglob("*.py")):
            if not any(part.startswith(".") for part in path.relative_to(package).parts):
                yield path
