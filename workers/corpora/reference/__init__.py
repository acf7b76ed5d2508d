"""A text that this project brings along: what components write on average is taken over it where the user names none."""

from __future__ import annotations

from importlib.resources import files


def reference_text() -> str:
    """About 950 words: letters, reports, talk, tables and code, so that a mean is not of one kind of text."""
    return files(__name__).joinpath("text.txt").read_text(encoding="utf-8")
