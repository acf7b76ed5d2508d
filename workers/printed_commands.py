"""Commands as they are printed to be pasted: every word is quoted that a shell would read otherwise."""

from __future__ import annotations

import shlex


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
    return shlex.join(joined)
