"""What a file of a corpus holds, by its content: rows of JSON, parquet, an array of numpy, or text.

A name only says what to expect. What reads as JSON is rows and never prose, whatever the file is called; what begins like
JSON and is not is text, unless it is called JSON or begins with an object, and then refused. The first row tells of all.
"""

from __future__ import annotations

import json
import re
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from erasure_sweep.workers.corpora.compressed import COMPRESSED_SUFFIXES, open_content
from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.storage.small_files import parse_json

PROSE_SUFFIXES = frozenset(
    (".txt", ".text", ".md", ".rst", ".tex", ".html", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml")
)
CODE_SUFFIXES = frozenset(
    (
        ".py",
        ".pyi",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".java",
        ".js",
        ".ts",
        ".go",
        ".rs",
        ".sh",
        ".sql",
        ".rb",
        ".lua",
    )
)
_LINES_SUFFIXES = frozenset((".jsonl", ".ndjson"))
JSON_SUFFIXES = _LINES_SUFFIXES | {".json"}
ROW_SUFFIXES = JSON_SUFFIXES | {".parquet"}
READ_SUFFIXES = PROSE_SUFFIXES | CODE_SUFFIXES | ROW_SUFFIXES

TEXT, LINES, LIST, PARQUET, ARRAY = "text", "JSON Lines", "a JSON array", "parquet", "numpy"
"""Formats. ``LIST`` is one JSON array of all rows."""
MAX_LINE_BYTES = 2**28
"""Of one row of JSON; and of a whole file that is one array."""
_HEAD_BYTES = 2**16
_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_LIKE_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\{\s*["}]|\[\s*[\[{"\]\d])')

_SURELY_JSON = re.compile(rb'(\[\s*)?\{\s*"[^"\n]*"\s*:|\[{100}')
"""An object with a key, or brackets without end: no log and no list of references begins so."""


class Format(NamedTuple):
    """What a file holds."""

    kind: str
    first_row: Any = None
    """Of rows in JSON."""


def suffix_of(path: Path) -> str:
    """What a file's name says of its content: the suffix before that of its compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED_SUFFIXES else suffix


def format_of(name: str, path: Path) -> Format:
    """Look into a file.

    Raises:
        DataError: it is neither text nor rows that can be read, or damaged.
    """
    suffix = suffix_of(path)
    with open_content(name, path) as stream:
        head = stream.read(_HEAD_BYTES)
        if head.startswith(b"PAR1") or suffix == ".parquet":
            return Format(PARQUET)
        if head.startswith(b"\x93NUMPY"):
            return Format(ARRAY)
        if suffix in JSON_SUFFIXES or (suffix not in CODE_SUFFIXES and _LIKE_JSON.match(head)):
            rows = _rows(name, path, head, stream)
            if rows is not None:
                return rows
    if suffix not in PROSE_SUFFIXES | CODE_SUFFIXES:
        _refuse_binary(name, head)
    return Format(TEXT)


def _refuse_binary(name: str, head: bytes) -> None:
    remedy = "give text in UTF-8, JSON Lines, parquet, or ready tokens as .npy"
    kind = next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None)
    if kind is not None:
        raise DataError(f"{name} is {kind}, not text: {remedy}")
    if b"\0" in head:
        raise DataError(f"{name} is not text (a zero byte at offset {head.index(0)}): {remedy}")


def _rows(name: str, path: Path, head: bytes, stream: BufferedIOBase) -> Format | None:
    """Rows of JSON; ``None`` of text that only begins like them, as a log or a list of references may."""
    suffix = suffix_of(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError(f"{name} holds no rows")
    try:
        if not start.startswith(b"["):
            return _lines(name, start, stream, suffix)
        first = _first_element(start, stream)
        if not isinstance(first, dict | list | str):
            raise ValueError(f"its first element is {first!r:.20}, no row")
        if suffix in PROSE_SUFFIXES or (suffix not in JSON_SUFFIXES and isinstance(first, str)):
            with open_content(name, path) as whole:
                parse_json(whole.read(MAX_LINE_BYTES))
        return Format(LIST, first)
    except ValueError as error:
        if suffix in PROSE_SUFFIXES or (suffix not in JSON_SUFFIXES and not _SURELY_JSON.match(start)):
            return None
        if suffix in _LINES_SUFFIXES:
            return Format(LINES)  # what is wrong with them is said with the number of the line
        raise DataError(
            f"{name} looks like JSON and is not valid ({one_line(error)}): give JSON Lines, a JSON array of rows, or text"
        ) from error


def _lines(name: str, start: bytes, stream: BufferedIOBase, suffix: str) -> Format:
    if suffix in _LINES_SUFFIXES:
        return Format(LINES)
    line, rest = _first_line(name, start, stream)
    try:
        row = parse_json(line)
    except ValueError:
        parse_json(start + stream.read(MAX_LINE_BYTES))
        raise DataError(
            f"{name} is one JSON value over many lines: give a row a line, or a JSON array of rows, with text or tokens"
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"its first line is {line[:20]!r}, not an object")
    if rest.strip() and not rest.lstrip().startswith(b"{"):
        raise ValueError("its first line is a JSON object and its second is not")
    return Format(LINES, row)


def _first_line(name: str, start: bytes, stream: BufferedIOBase) -> tuple[bytes, bytes]:
    """The first line, and the beginning of what follows."""
    if b"\n" not in start:
        start += stream.readline(MAX_LINE_BYTES)
        if len(start) >= MAX_LINE_BYTES and not start.endswith(b"\n"):
            raise DataError(f"{name} has a line of more than {MAX_LINE_BYTES:,} bytes: give a row a line")
        return start, stream.read(_HEAD_BYTES)
    line, _, rest = start.partition(b"\n")
    return line, rest


def _first_element(start: bytes, stream: BufferedIOBase) -> Any:
    """The first element of a JSON array, of which no more is read than is needed."""
    decoder = json.JSONDecoder()
    while True:
        text = start.decode("utf-8", errors="ignore").removeprefix("[").lstrip()
        if text.startswith("]"):
            raise ValueError("the array is empty")
        try:
            return decoder.raw_decode(text)[0]
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        except ValueError:
            more = stream.read(max(_HEAD_BYTES, len(start))) if len(start) < MAX_LINE_BYTES else b""
            if not more:
                raise
            start += more
