"""What a user meets who is not root, where tests run as root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 0x20080522
_OVERRIDES = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: permissions of files count for nothing."""
_ANOTHER_USER = 54321


@contextmanager
def permissions_count() -> Iterator[None]:
    """Take from this thread root's right to read and write what permissions forbid; others have no such right."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    kept = data[0]
    data[0] = kept & ~_OVERRIDES
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = kept
        assert libc.capset(header, data) == 0


@contextmanager
def of_another_user(folder: Path) -> Iterator[None]:
    """A folder and all below it that another user owns and nobody may write, while the block lasts.

    Where tests do not run as root they stay this user's, and cannot be written all the same.
    """
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    owner = os.geteuid()
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
        if owner == 0:
            os.chown(path, _ANOTHER_USER, -1)
    try:
        yield
    finally:
        for path, mode in modes.items():
            os.chown(path, owner, -1)
            path.chmod(mode)
