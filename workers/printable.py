"""Text from outside, such that a terminal shows it and obeys none of it."""

from __future__ import annotations

_UNSEEN = "\ufffd"
_BLANKS = "\t\n"
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""What makes text run in another direction than it is written."""
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _BLANKS},
    0x7F: "\u2421",
    **dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *_TURNING, *range(0xD800, 0xE000)), _UNSEEN),
}
"""A character for each, so that columns keep their width: the picture that Unicode has of it, or �."""
_LINE_PICTURES = _PICTURES | {ord("\n"): "\u240a"}


def printable(text: str) -> str:
    """Text with its control characters shown, tabs and line ends kept."""
    return text.translate(_PICTURES)


def printable_line(text: str) -> str:
    """The same on one line: line ends are shown as well."""
    return text.translate(_LINE_PICTURES)
