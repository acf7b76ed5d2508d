"""The staging folder's mark: by it, and by their names, its files are told from what somebody else keeps in the same place."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from erasure_sweep.workers.storage.whole_file import create_whole

_MARK = ".erasure-sweep"
_TEXT = b"Staged weights and token arrays of erasure-sweep: `erasure-sweep clean --staged` removes them.\n"

NAMES = {
    "models": re.compile(r"[0-9a-f]{32}\.safetensors"),
    "corpora": re.compile(r"[0-9a-f]{32}-\d+\.(npy|json)"),
    "means": re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.npy"),
    "names": re.compile(r"[0-9a-f]{32}\.json"),
    "in-use": re.compile(r"[0-9a-f]{16}\.json"),
}
"""What files in each of its folders are called."""


def mark_staging(folder: Path) -> None:
    """Make the folder, with its mark; one that cannot be written cannot be cleaned from here either."""
    with suppress(OSError):
        if not (folder / _MARK).exists():
            create_whole(folder / _MARK, _TEXT)


def is_marked(folder: Path) -> bool:
    """Whether this project has staged something there, in a version that marked it."""
    with suppress(OSError):
        return (folder / _MARK).read_bytes() == _TEXT
    return False
