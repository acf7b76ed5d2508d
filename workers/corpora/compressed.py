"""Compressed files, known by their first bytes: read as a stream, or unpacked into a file without a name.

gzip, bzip2 and xz are Python's own; Zstandard is read by pyarrow, which is here anyway for parquet. Corpora are read at
places drawn at random, which no compressed file allows, so its content goes to a temporary file that has no name: it is
gone when it is closed, whatever ends the process.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import cast

from erasure_sweep.workers.errors import DataError, one_line

COMPRESSED_SUFFIXES = frozenset((".gz", ".bz2", ".xz", ".zst"))
MAX_UNPACKED_BYTES = 16 * 2**30
_CHUNK = 2**22
_MAGIC = {rb"\x1f\x8b\x08": "gzip", rb"BZh\d1AY&SY": "bzip2", rb"\xfd7zXZ\x00": "xz", rb"\x28\xb5\x2f\xfd": "zstd"}


def compression_of(path: Path) -> str | None:
    """How a file is compressed; ``None`` where it is not."""
    with path.open("rb") as stream:
        start = stream.read(10)
    return next((kind for magic, kind in _MAGIC.items() if re.match(magic, start)), None)


@contextmanager
def open_content(name: str, path: Path) -> Iterator[BufferedIOBase]:
    """What a file holds from its start, unpacked as it is read.

    Raises:
        DataError: it is damaged.
    """
    import pyarrow as pa

    kind = compression_of(path)
    try:
        with path.open("rb") if kind is None else _unpacking(path, kind) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if kind is None or isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DataError(f"{name} cannot be unpacked ({kind}: {one_line(error)}): it is damaged or torn") from error


def _unpacking(path: Path, kind: str) -> BufferedIOBase:
    if kind == "zstd":
        import pyarrow as pa

        return BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), kind))
    if kind == "gzip":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if kind == "bzip2" else lzma.open(path, "rb")


def unpack(name: str, path: Path) -> BufferedIOBase:
    """The content of a compressed file in a file of its own, to be read at any place.

    Raises:
        DataError: it is damaged, or far larger than what it is packed in.
    """
    unpacked, size = cast(BufferedIOBase, TemporaryFile()), 0  # noqa: SIM115 whoever asked closes it
    with open_content(name, path) as stream:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > MAX_UNPACKED_BYTES:
                unpacked.close()
                raise DataError(
                    f"{name} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes: unpack it, and give a part of it"
                )
            _write(unpacked, chunk, name)
    return unpacked


def _write(unpacked: BufferedIOBase, chunk: bytes, name: str) -> None:
    try:
        unpacked.write(chunk)
        unpacked.flush()
    except OSError as error:
        raise DataError(
            f"{name} cannot be unpacked into {gettempdir()} ({error.strerror}): make room there, or name another place "
            "in TMPDIR"
        ) from error
