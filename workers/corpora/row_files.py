"""JSONL and parquet files as corpora, row by row.

A file holds one document in each row of its ``text`` column, or one row of ready token ids in each of its ``tokens``
column, which goes first where there are both. Rows are noted by place and size, and read when they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from erasure_sweep.workers.corpora.sampling import Document, TokenRow
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.storage.small_files import parse_json

TOKENS, TEXT = "tokens", "text"
_JSONL_SUFFIXES = frozenset((".jsonl", ".ndjson"))
ROW_SUFFIXES = _JSONL_SUFFIXES | {".parquet"}


def choose_column(columns: Sequence[str], where: str) -> str:
    """``tokens`` or ``text``, whichever of the columns goes first.

    Raises:
        DataError: there is neither; says what there is.
    """
    for column in (TOKENS, TEXT):
        if column in columns:
            return column
    raise DataError(f"{where} has neither a tokens nor a text column; its columns: {', '.join(columns) or 'none'}")


def column_of(name: str, path: Path) -> str:
    """Which column of the file is read, judged by its schema or its first row."""
    if not _is_jsonl(path):
        return choose_column(_open_parquet(name, path).schema_arrow.names, name)
    first = next((row for _, _, row in _jsonl_rows(name, path)), None)
    if first is None:
        raise DataError(f"{name} holds no rows")
    return choose_column(list(first), name)


def row_documents(name: str, path: Path) -> Iterator[Document]:
    """The rows of a text column; empty ones are left out."""
    return _jsonl_documents(name, path) if _is_jsonl(path) else _parquet_documents(name, path)


def token_rows(name: str, path: Path) -> Iterator[TokenRow]:
    """The rows of a tokens column."""
    return _jsonl_tokens(name, path) if _is_jsonl(path) else _parquet_tokens(name, path)


def read_range(path: Path, start: int, stop: int) -> bytes:
    """Bytes of a file from … to, fewer at its end."""
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() in _JSONL_SUFFIXES


def _jsonl_rows(name: str, path: Path) -> Iterator[tuple[str, range, dict[str, Any]]]:
    """Each row behind its name (file and line number) and the bytes that it takes up."""
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                where = f"{name}:{number}"
                yield where, range(offset, offset + len(line)), _parse_row(line, where)
            offset += len(line)


def _parse_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object with a text or tokens key")
    return row


def _read_row(path: Path, place: range, where: str) -> dict[str, Any]:
    return _parse_row(read_range(path, place.start, place.stop), where)


def _jsonl_documents(name: str, path: Path) -> Iterator[Document]:
    for where, place, row in _jsonl_rows(name, path):
        if size := len(text_of(row, where)):
            yield Document(where, size, partial(_read_jsonl_text, path, place, where))


def _read_jsonl_text(path: Path, place: range, where: str, start: int, stop: int) -> bytes:
    return text_of(_read_row(path, place, where), where)[start:stop]


def text_of(row: dict[str, Any], where: str) -> bytes:
    """A row's text in UTF-8; null is empty.

    Raises:
        DataError: it has none, or something else; ``where`` is named.
    """
    text = row.get(TEXT, 0)
    if text is None:
        return b""
    if not isinstance(text, str):
        raise DataError(f"{where} has {'no text' if TEXT not in row else f'{text!r:.40} for text, not a string'}")
    return text.encode("utf-8", errors="replace")  # JSON can spell lone surrogates, which are not text


def _jsonl_tokens(name: str, path: Path) -> Iterator[TokenRow]:
    for where, place, row in _jsonl_rows(name, path):
        yield TokenRow(where, len(ids_of(row, where)), partial(_read_jsonl_ids, path, place, where))


def _read_jsonl_ids(path: Path, place: range, where: str) -> list[object]:
    return ids_of(_read_row(path, place, where), where)


def ids_of(row: dict[str, Any], where: str) -> list[object]:
    """A row's ready tokens, not yet known to be integers.

    Raises:
        DataError: it has no list of them; ``where`` is named.
    """
    ids = row.get(TOKENS)
    if not isinstance(ids, list):
        raise DataError(f"{where} has {ids!r:.40} for tokens, not a list of ids")
    return ids


def _open_parquet(name: str, path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged or no parquet file ({error})") from error


def _read_column(name: str, path: Path, column: str) -> Any:
    """One whole column: in memory it takes about what the file does, and rows are drawn in random order."""
    import pyarrow as pa

    try:
        return _open_parquet(name, path).read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged: its column {column} cannot be read ({error})") from error


def _parquet_documents(name: str, path: Path) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _read_column(name, path, TEXT)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"{name}: its column text holds {values.type}, not strings")
    for row, size in enumerate(pc.binary_length(values).to_pylist()):
        if size:
            yield Document(f"{name}:{row}", size, partial(_read_arrow_text, values, row))


def _read_arrow_text(values: Any, row: int, start: int, stop: int) -> bytes:
    text: str = values[row].as_py()
    return text.encode()[start:stop]


def _parquet_tokens(name: str, path: Path) -> Iterator[TokenRow]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _read_column(name, path, TOKENS)
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(values.type) for check in is_list):
        raise DataError(f"{name}: its column tokens holds {values.type}, not lists of ids")
    for row, size in enumerate(pc.list_value_length(values).to_pylist()):
        yield TokenRow(f"{name}:{row}", size or 0, partial(_read_arrow_ids, values, row))


def _read_arrow_ids(values: Any, row: int) -> list[object]:
    ids: list[object] = values[row].as_py()
    return ids
