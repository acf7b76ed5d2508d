"""Files that are whole or absent, whatever ends the process that writes them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, its folder made: what is written there is synced and renamed in the end.

    After an error, an interrupt too, nothing stays. A process that is killed leaves ``.NAME.….tmp``.

    Raises:
        OSError: the folder cannot be made, or the file not synced or renamed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):  # it may be the folder itself that is not to be had
            temporary.unlink(missing_ok=True)
