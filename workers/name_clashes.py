"""Names that stand for something known, and files or folders of the user's own that are called the same."""

from __future__ import annotations

from pathlib import Path


def passed_over(name: str, meaning: str) -> str | None:
    """The line that says that a file or folder of a known name was not taken, and how to mean it; ``None`` without one.

    Args:
        name: a known one, as the user gave it.
        meaning: what it stands for.
    """
    path = Path(name)
    if not path.exists():
        return None
    kind = "folder" if path.is_dir() else "file"
    return f"{name} is {meaning}; the {kind} {name} here is passed over: write ./{name} to mean it"
