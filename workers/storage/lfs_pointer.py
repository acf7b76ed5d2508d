"""Pointers of Git LFS: the small text file that a clone without its large files holds in the place of each.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: fewer than 1024 bytes, the first line says the version.
"""

from __future__ import annotations

import re
from pathlib import Path

from erasure_sweep.workers.errors import DataError

_MAX_BYTES = 1024
_POINTER = re.compile(rb"version https://[\w.-]+/spec/v1\s.*\boid \w+:[0-9a-f]+\s+size (\d+)\s*", re.DOTALL)


def refuse_pointer(path: Path) -> None:
    """Pass a file, or nothing, at ``path``; one of a few bytes is looked into, others are only measured.

    Raises:
        DataError: it is a pointer; names it, and how to get the file that it stands for.
        OSError: it cannot be read.
    """
    if not path.is_file() or path.stat().st_size >= _MAX_BYTES:
        return
    pointer = _POINTER.fullmatch(path.read_bytes())
    if pointer:
        raise DataError(
            f"{path} is a pointer of Git LFS to a file of {int(pointer[1]):,} bytes, not the file: fetch it with "
            "`git lfs pull` in its repository"
        )
