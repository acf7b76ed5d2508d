"""Small files (configs, indexes, records), read with a bound: no pipe to wait for, no gigabytes, no depth."""

from __future__ import annotations

import errno
import json
import stat
from io import BufferedIOBase
from pathlib import Path
from typing import Any

SMALL_BYTES = 64 * 2**20
"""More than any index or record of a model has."""
MAX_HEADER_BYTES = 100_000_000
"""Of JSON in a file of safetensors, which reads no more either."""

_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def read_small_file(path: Path, most_bytes: int = SMALL_BYTES) -> bytes:
    """The content of a regular file of no more than so many bytes.

    Raises:
        OSError: it cannot be read, is a pipe, folder or device, or is larger; ``strerror`` says which.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        kind = next((name for has, name in _KINDS if has(mode)), "a device")
        raise OSError(0, f"it is {kind}, not a file", str(path))
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(0, f"it is larger than {_amount(most_bytes)}", str(path))
    return content


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes} bytes"


def parse_json(content: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is none, not UTF-8, or nested beyond what can be read.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_small_json(path: Path, most_bytes: int = SMALL_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: as ``read_small_file`` does.
        ValueError: as ``parse_json`` does.
    """
    return parse_json(read_small_file(path, most_bytes))


def safetensors_header(file: BufferedIOBase) -> dict[str, Any]:
    """What a file of safetensors says of itself before its values: JSON behind its own length, eight bytes little-endian.

    Raises:
        ValueError, TypeError: it is none.
    """
    length = int.from_bytes(file.read(8), "little")
    return dict(parse_json(file.read(min(length, MAX_HEADER_BYTES))))
