"""Files that users give: looked at before they are opened, because what lies there may block, or stand for another file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer
from erasure_sweep.workers.storage.small_files import parse_json


def check_given_file(path: Path) -> None:
    """Pass a regular file, or nothing, at ``path``.

    Raises:
        DataError: it is a pipe, a device or a folder, whose reading may never end, or a pointer of Git LFS.
        OSError: it cannot be looked at.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file: give a file with its content")
    refuse_pointer(path)


def read_given_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is not JSON, is nested beyond what can be read, or is not a file with its own content.
        FileNotFoundError: there is none.
    """
    try:
        check_given_file(path)
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {one_line(error)}") from error
