"""Files of JSON and parquet as corpora, row by row.

A file holds one document in each row of its ``text`` column, or one row of ready token ids in each of its ``tokens``
column, which goes first where there are both; where prompts are not packed, a ``length`` column says how many of these are no
padding. Rows are noted by place and size, and read when they are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from erasure_sweep.workers.corpora.compressed import compression_of, open_content, unpack
from erasure_sweep.workers.corpora.formats import LIST, MAX_LINE_BYTES, PARQUET, Format
from erasure_sweep.workers.corpora.sampling import Document, TokenRow
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.storage.small_files import parse_json

TOKENS, TEXT = "tokens", "text"
LENGTHS = ("length", "lengths")
"""Names of a column that says how many of a row's ready tokens are no padding."""
Source = Path | BufferedIOBase
"""A file, or the unpacked content of one, to be read at any place."""


def choose_column(columns: Sequence[str], where: str) -> str:
    """``tokens`` or ``text``, whichever of the columns goes first.

    Raises:
        DataError: there is neither; says what there is.
    """
    for column in (TOKENS, TEXT):
        if column in columns:
            return column
    raise DataError(f"{where} has neither a tokens nor a text column; its columns: {', '.join(columns) or 'none'}")


def column_of(name: str, path: Path, held: Format) -> str:
    """Which column of a file is read, judged by its schema or its first row."""
    if held.kind == PARQUET:
        with opened(name, path) as source:
            return choose_column(_open_parquet(name, source).schema_arrow.names, name)
    if held.kind == LIST:
        return choose_column(list(_as_row(held.first_row, f"{name}:0")), name)
    return choose_column(list(_first_of_lines(name, path)), name)


def check_first_row(name: str, path: Path, held: Format) -> None:
    """Refuse JSON whose first row has no text, and no token ids, under the name of either.

    Raises:
        DataError: says what it has.
    """
    row = _as_row(held.first_row, f"{name}:0") if held.kind == LIST else _first_of_lines(name, path)
    read = ids_of if choose_column(list(row), name) == TOKENS else text_of
    read(row, f"{name}:{0 if held.kind == LIST else 1}")


def _first_of_lines(name: str, path: Path) -> dict[str, Any]:
    with open_content(name, path) as stream:
        first = next((row for _, _, row in _jsonl_rows(name, stream)), None)
    if first is None:
        raise DataError(f"{name} holds no rows")
    return first


@contextmanager
def opened(name: str, path: Path) -> Iterator[Source]:
    """A file to be read at any place: itself, or what a compressed one holds."""
    if compression_of(path) is None:
        yield path
        return
    with unpack(name, path) as unpacked:
        yield unpacked


def row_documents(name: str, source: Source, held: Format) -> Iterator[Document]:
    """The rows of a text column; empty ones are left out."""
    if held.kind == PARQUET:
        yield from _parquet_documents(name, source)
    elif held.kind == LIST:
        for where, row in _list_rows(name, source):
            if text := text_of(row, where):
                yield Document(where, len(text), partial(_slice, text))
    else:
        yield from _jsonl_documents(name, source)


def token_rows(name: str, source: Source, held: Format, lengths: bool) -> Iterator[TokenRow]:
    """The rows of a tokens column.

    Args:
        lengths: whether a column of ``LENGTHS`` says how many of a row's tokens are no padding.
    """
    if held.kind == PARQUET:
        yield from _parquet_tokens(name, source, lengths)
    elif held.kind == LIST:
        for where, row in _list_rows(name, source):
            ids = ids_of(row, where, lengths)
            yield TokenRow(where, len(ids), partial(list, ids))
    else:
        yield from _jsonl_tokens(name, source, lengths)


def read_range(source: Source, start: int, stop: int) -> bytes:
    """Bytes of a file from … to, fewer at its end."""
    if not isinstance(source, Path):
        return os.pread(source.fileno(), stop - start, start)
    with source.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def _slice(text: bytes, start: int, stop: int) -> bytes:
    return text[start:stop]


def _list_rows(name: str, source: Source) -> list[tuple[str, dict[str, Any]]]:
    """The elements of a JSON array, in memory: each behind its name, a text or a list of ids as the row that it stands for."""
    content = read_range(source, 0, MAX_LINE_BYTES + 1)
    if len(content) > MAX_LINE_BYTES:
        raise DataError(f"{name} is a JSON array of more than {MAX_LINE_BYTES:,} bytes: give JSON Lines, a row a line")
    try:
        rows = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{name} is not valid JSON ({error})") from error
    return [(f"{name}:{index}", _as_row(row, f"{name}:{index}")) for index, row in enumerate(rows)]


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not isinstance(value, str | list):
        raise DataError(
            f"{where} is {value!r:.40}: neither an object with a text or tokens key, nor a text, nor a list of ids"
        )
    return {TEXT if isinstance(value, str) else TOKENS: value}


def _jsonl_rows(name: str, stream: BufferedIOBase) -> Iterator[tuple[str, range, dict[str, Any]]]:
    """Each row behind its name (file and line number) and the bytes that it takes up."""
    offset, number = 0, 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        where = f"{name}:{number}"
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise DataError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes: give a row a line")
        if line.strip():
            yield where, range(offset, offset + len(line)), _parse_row(line, where)
        offset += len(line)


def _parse_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object with a text or tokens key")
    return row


@contextmanager
def _from_start(source: Source) -> Iterator[BufferedIOBase]:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            yield stream
    else:
        source.seek(0)
        yield source


def _read_row(source: Source, place: range, where: str) -> dict[str, Any]:
    return _parse_row(read_range(source, place.start, place.stop), where)


def _jsonl_documents(name: str, source: Source) -> Iterator[Document]:
    with _from_start(source) as stream:
        for where, place, row in _jsonl_rows(name, stream):
            if size := len(text_of(row, where)):
                yield Document(where, size, partial(_read_jsonl_text, source, place, where))


def _read_jsonl_text(source: Source, place: range, where: str, start: int, stop: int) -> bytes:
    return text_of(_read_row(source, place, where), where)[start:stop]


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


def _jsonl_tokens(name: str, source: Source, lengths: bool) -> Iterator[TokenRow]:
    with _from_start(source) as stream:
        for where, place, row in _jsonl_rows(name, stream):
            ids = ids_of(row, where, lengths)
            yield TokenRow(where, len(ids), partial(_read_jsonl_ids, source, place, where, lengths))


def _read_jsonl_ids(source: Source, place: range, where: str, lengths: bool) -> list[object]:
    return ids_of(_read_row(source, place, where), where, lengths)


def ids_of(row: dict[str, Any], where: str, lengths: bool = False) -> list[object]:
    """A row's ready tokens, up to its length if that is asked for, not yet known to be integers.

    Raises:
        DataError: it has no list of them, or a length that it cannot have; ``where`` is named.
    """
    ids = row.get(TOKENS)
    if not isinstance(ids, list):
        raise DataError(f"{where} has {ids!r:.40} for tokens, not a list of ids")
    column = next((name for name in LENGTHS if lengths and name in row), None)
    return ids if column is None else ids[: _length(row[column], len(ids), column, where)]


def _length(value: object, n_ids: int, column: str, where: str) -> int:
    if type(value) is not int or not 0 <= value <= n_ids:
        raise DataError(
            f"{where} has {value!r:.40} for {column}, of {n_ids} tokens: give how many of them are no padding, or call the "
            "column otherwise"
        )
    return value


def _open_parquet(name: str, source: Source) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged or no parquet file ({error})") from error


def _read_column(name: str, source: Source, column: str) -> Any:
    """One whole column: in memory it takes about what the file does, and rows are drawn in random order."""
    import pyarrow as pa

    try:
        return _open_parquet(name, source).read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged: its column {column} cannot be read ({error})") from error


def _parquet_documents(name: str, source: Source) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _read_column(name, source, TEXT)
    if pa.types.is_dictionary(values.type) and pa.types.is_string(values.type.value_type):
        values = values.cast(pa.string())  # what pandas makes of a categorical column
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"{name}: its column text holds {values.type}, not strings")
    for row, size in enumerate(pc.binary_length(values).to_pylist()):
        if size:
            yield Document(f"{name}:{row}", size, partial(_read_arrow_text, values, row))


def _read_arrow_text(values: Any, row: int, start: int, stop: int) -> bytes:
    text: str = values[row].as_py()
    return text.encode()[start:stop]


def _parquet_tokens(name: str, source: Source, lengths: bool) -> Iterator[TokenRow]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _read_column(name, source, TOKENS)
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(values.type) for check in is_list):
        raise DataError(f"{name}: its column tokens holds {values.type}, not lists of ids")
    sizes = [size or 0 for size in pc.list_value_length(values).to_pylist()]
    columns = _open_parquet(name, source).schema_arrow.names if lengths else []
    column = next((each for each in LENGTHS if each in columns), None)
    if column is not None:
        given = enumerate(zip(_read_column(name, source, column).to_pylist(), sizes, strict=True))
        sizes = [_length(length, size, column, f"{name}:{row}") for row, (length, size) in given]
    for row, size in enumerate(sizes):
        yield TokenRow(f"{name}:{row}", size, partial(_read_arrow_ids, values, row, size))


def _read_arrow_ids(values: Any, row: int, size: int) -> list[object]:
    ids: list[object] = values[row].as_py()
    return ids[:size]
