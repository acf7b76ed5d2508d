"""Commands as they are printed to be pasted: every word is quoted that a shell would read otherwise."""

from __future__ import annotations

import shlex

_SPELLED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ESCAPED = {"\\": "\\\\", "'": "\\'"}


def command(*words: object) -> str:
    """A command of this package."""
    return quoted("erasure-sweep", *words)


def quoted(*words: object) -> str:
    """Words of any command. One behind a flag that looks like a flag itself is joined to it."""
    joined: list[str] = []
    for word in map(str, words):
        if (
            joined
            and joined[-1].startswith("--")
            and "=" not in joined[-1]
            and word.startswith("-")
            and word[1:2] != "-"
        ):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return " ".join(map(_quoted, joined))


def _quoted(word: str) -> str:
    """A word as a shell reads it; line ends and tabs, which a terminal may not show as they are, are spelled out."""
    if not set(word) & set(_SPELLED):
        return shlex.quote(word)
    return "$'" + "".join(_SPELLED.get(letter, _ESCAPED.get(letter, letter)) for letter in word) + "'"
