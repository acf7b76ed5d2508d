"""Sets of prompts with answers, from JSON Lines or CSV: a row each, with ``prompt`` and perhaps ``answer``, ``against``,
``corrupted`` and ``pos``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from erasure_sweep.workers.errors import DataError, UsageError, one_line
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer
from erasure_sweep.workers.storage.small_files import parse_json, read_small_file

Row = dict[str, Any]


def read_prompt_set(path: Path) -> list[Row]:
    """The rows of a set; which of the two it is shows in its first line.

    Raises:
        UsageError: there is no such file.
        DataError: it cannot be read, or holds no rows; names the line.
    """
    try:
        refuse_pointer(path)
        text = read_small_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            f"there is no set of prompts at {path}: give JSON Lines, CSV, or a task such as ioi:20"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{path} cannot be read: {reason}") from error
    rows = _json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(path, text)
    if not rows:
        raise DataError(f"{path} holds no prompts")
    return rows


def _json_rows(path: Path, text: str) -> list[Row]:
    if text.lstrip().startswith("["):
        rows = _parsed(path, "", text)
        return [_row(path, f"entry {at}", row) for at, row in enumerate(rows, start=1)]
    lines = enumerate(text.splitlines(), start=1)
    return [_row(path, f"line {at}", _parsed(path, f" line {at}", line)) for at, line in lines if line.strip()]


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}{where} is not JSON: {one_line(error)}") from error


def _row(path: Path, where: str, row: Any) -> Row:
    if not isinstance(row, dict) or "prompt" not in row:
        raise DataError(
            f"{path} {where} has no 'prompt': give objects with prompt, and perhaps answer, against, corrupted"
        )
    return row


def _csv_rows(path: Path, text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=False)
    if "prompt" not in (reader.fieldnames or []):
        raise DataError(
            f"{path} has no column 'prompt' in its first line: give prompt, and perhaps answer, against, corrupted"
        )
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path} line {reader.line_num} has not as many cells as the first line")
            rows.append({key: value for key, value in row.items() if value or key == "prompt"})
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} cannot be read: {one_line(error)}") from error
    return [row | ({"pos": _whole(path, row["pos"])} if "pos" in row else {}) for row in rows]


def _whole(path: Path, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise DataError(f"{path} has pos {value!r}: give a whole number") from None
