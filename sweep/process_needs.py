"""What a run needs of the process that it is in: said in a line first, where libraries would fail in words of their own."""

from __future__ import annotations

import resource
import tempfile
from contextlib import suppress
from pathlib import Path

from erasure_sweep.workers.errors import SweepError

FILES = 256
"""How many files a run may have open at a time; more than the largest number that was seen, by far."""
_MANY_FILES, _FEWER_FILES = 65_536, 8_192


def check_process() -> None:
    """See that there are a current folder, a home and a place for temporary files, and allow as many open files as may be.

    Raises:
        SweepError: something is missing; with the way out.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise SweepError("the current folder was removed: change into another one") from error
    try:
        Path.home()
    except RuntimeError as error:
        raise SweepError("this user has no home folder: set HOME to a folder that can be written") from error
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SweepError("no folder for temporary files can be written: set TMPDIR to one") from error
    _allow_files()


def _allow_files() -> None:
    """As Ray does; Python's and SQLite's files come to more than the usual limit on some systems."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (_MANY_FILES, _FEWER_FILES):
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            with suppress(ValueError, OSError):  # the system has a limit of its own (macOS), or forbids it
                resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
                break
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < FILES:
        raise SweepError(
            f"this process may have {allowed} files open, and a run needs {FILES}: raise it (`ulimit -Hn`)"
        )
