"""Errors that users meet: one clear line that names what is wrong and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from erasure_sweep.workers.credentials import masked

ERROR_LINE_LENGTH = 200
_ENDLESS = re.compile(r"(\S{80})\S{300,}(\S{40})")
"""A word too long to be read, or a path; longer ones are given whole nowhere."""


class SweepError(Exception):
    """Something failed; the message is one line for the user, and ``exit_code`` what the command ends with."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shortened(masked(message)))


class UsageError(SweepError):
    """What was asked for cannot be: an unknown name, a wrong key or value, a folder of another sweep."""

    exit_code = 2


class DataError(SweepError):
    """What was found cannot be used: damaged or missing files, weights that hold NaN, tokens beyond the vocabulary."""


def shortened(message: str) -> str:
    """A message whose words of more than 420 characters have lost their middle: a value that nobody meant to read."""
    return _ENDLESS.sub(r"\1…\2", message)


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """``did you mean a, b?`` for the known names nearest to ``name``, or the whole list when none is near."""
    names = sorted(known)
    close = get_close_matches(name, names, n=n, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"


def one_line(error: Exception, limit: int = ERROR_LINE_LENGTH) -> str:
    """The first line of an error that is not ours, with its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:limit] if lines else type(error).__name__
