"""Corpora on disk: files, folders, and the source of Python's standard library.

Reading starts with names, sizes and how files begin; a text file is read where a passage is drawn from it, and only there.
"""

from __future__ import annotations

import os
import resource
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.corpora.compressed import COMPRESSED_SUFFIXES
from erasure_sweep.workers.corpora.formats import (
    ARRAY,
    JSON_SUFFIXES,
    READ_SUFFIXES,
    Format,
    format_of,
    suffix_of,
)
from erasure_sweep.workers.corpora.formats import TEXT as TEXT_FORMAT
from erasure_sweep.workers.corpora.row_files import (
    TEXT,
    TOKENS,
    Source,
    check_first_row,
    column_of,
    opened,
    read_range,
    row_documents,
    token_rows,
)
from erasure_sweep.workers.corpora.sampling import (
    CorpusRequest,
    Document,
    DrawnPrompts,
    TokenRow,
    draw_rows,
    draw_text,
    no_tokenizer,
)
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.tokenizer import Tokenizer
from erasure_sweep.workers.storage.given_files import check_given_file

FILES_VERSION = 2
"""Raised by hand when the same files give other text, so that arrays staged before are not taken."""
MAX_FILES = 1_000_000
"""That are looked at below a folder."""
_MOST_COMPRESSED = 500
"""Each is held open, unpacked, while prompts are drawn."""
_OTHER_OPEN_FILES = 128
"""That the process has beside them."""
_MOST_NAMED = 3


class CorpusFile(NamedTuple):
    """One file of a corpus, by its path below the corpus' root, and what it holds."""

    name: str
    path: Path
    held: Format = Format(TEXT_FORMAT)

    @property
    def has_rows(self) -> bool:
        return self.held.kind != TEXT_FORMAT

    @property
    def column(self) -> str:
        """Whether it holds text or ready tokens."""
        return column_of(*self) if self.has_rows else TEXT

    @property
    def is_compressed(self) -> bool:
        return self.path.suffix.lower() in COMPRESSED_SUFFIXES

    @property
    def identity(self) -> tuple[str, int, int]:
        stat = self.path.stat()
        return self.name, stat.st_size, stat.st_mtime_ns


class FileCorpus(NamedTuple):
    """Files that are one corpus, in path order."""

    files: Sequence[CorpusFile]
    root: str
    lenient: bool = False
    """Whether undecodable bytes are replaced: right for source files that declare an encoding of their own."""
    left_out: str = ""
    """Which files of the folder are not read, and why, in words."""

    @property
    def identity(self) -> list[object]:
        return ["files", self.root, self.lenient, [file.identity for file in self.files], FILES_VERSION]

    @property
    def needs_tokenizer(self) -> bool:
        """Whether text is read, judged by the first file; a mixture of text and tokens is refused by ``draw``."""
        return self.files[0].column == TEXT

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
        needs_tokenizer = self.needs_tokenizer
        if needs_tokenizer and tokenizer is None:
            raise no_tokenizer(request)
        most = min(_MOST_COMPRESSED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_OPEN_FILES)
        if sum(file.is_compressed for file in self.files) > most:
            raise UsageError(f"{self.root} holds more than {most} compressed files: unpack them, or join them")
        with ExitStack() as stack:
            sources = [(file, stack.enter_context(opened(file.name, file.path))) for file in self.files]
            if tokenizer is None or not needs_tokenizer:
                return draw_rows(
                    [row for file in sources for row in self._token_rows(*file, not request.pack)], request
                )
            return draw_text([document for file in sources for document in self._documents(*file)], request, tokenizer)

    def _token_rows(self, file: CorpusFile, source: Source, lengths: bool) -> Iterator[TokenRow]:
        if file.column != TOKENS:
            raise _mixture(self.files[0], file)
        return token_rows(file.name, source, file.held, lengths)

    def _documents(self, file: CorpusFile, source: Source) -> Iterator[Document]:
        if file.column != TEXT:
            raise _mixture(file, self.files[0])
        if file.has_rows:
            yield from row_documents(file.name, source, file.held)
        elif size := _size(source):
            yield Document(file.name, size, partial(read_range, source), self.lenient)


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else os.fstat(source.fileno()).st_size


def _mixture(of_tokens: CorpusFile, of_text: CorpusFile) -> DataError:
    return DataError(
        f"the corpus mixes ready tokens ({of_tokens.name}) with text ({of_text.name}): give one or the other"
    )


def standard_library_files() -> list[tuple[str, Path]]:
    """The running interpreter's ``.py`` files behind their relative paths, in path order; no installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    return sorted((path.relative_to(root).as_posix(), path) for path in _walk(root, skipped) if path.suffix == ".py")


def find_standard_library() -> FileCorpus:
    """The standard library as a corpus."""
    return FileCorpus([CorpusFile(*file) for file in standard_library_files()], "stdlib", lenient=True)


def find_files(path: Path) -> FileCorpus:
    """A file, or the text and rows below a folder, whatever compresses them; hidden files are skipped.

    Raises:
        UsageError: the folder holds none.
        DataError: a file is no regular one, a pointer of Git LFS, damaged, or neither text nor rows.
    """
    root = str(path.resolve())
    if not path.is_dir():
        return FileCorpus([_look_into(path.name, path)], root)
    files: list[CorpusFile] = []
    left_out: dict[str, list[str]] = {}
    for name, found in sorted((found.relative_to(path).as_posix(), found) for found in _walk(path, set())):
        reason = _reason_to_pass(name, found)
        if reason is None:
            try:
                files.append(_look_into(name, found))
                continue
            except DataError:
                if suffix_of(found) != ".json":
                    raise
                reason = "JSON that holds no rows of text or tokens"
        left_out.setdefault(reason, []).append(name)
    others = _json_beside_others(files)
    files = [file for file in files if file.name not in others]
    if others:
        left_out["JSON of tokens beside text, or of text beside tokens"] = others
    if not files:
        raise UsageError(
            f"folder {path} holds no text: give files in .txt, .md, .py and the like, .json, .jsonl or .parquet"
            + (f" (left out: {_in_words(left_out)})" if left_out else "")
        )
    return FileCorpus(files, root, left_out=_in_words(left_out))


def _json_beside_others(files: Sequence[CorpusFile]) -> list[str]:
    """Names of JSON files that hold text where the corpus is of tokens, or the other way round: settings, by their look."""
    settings = [file for file in files if suffix_of(file.path) == ".json"]
    other = next((file for file in files if suffix_of(file.path) != ".json"), None)
    return [file.name for file in settings if other and file.column != other.column]


def _look_into(name: str, path: Path) -> CorpusFile:
    check_given_file(path)
    file = CorpusFile(name, path, format_of(name, path))
    if file.held.kind == ARRAY:
        raise DataError(
            f"{name} is an array of numpy: give it by itself, as a file that ends in .npy and is not compressed"
        )
    if suffix_of(path) in JSON_SUFFIXES - {".jsonl", ".ndjson"}:
        check_first_row(*file)
    return file


def _reason_to_pass(name: str, path: Path) -> str | None:
    """Why a file of a folder is not read; ``None`` where it is."""
    if any(part.startswith(".") for part in Path(name).parts):
        return "hidden"
    if path.is_dir():
        return "links to folders"
    if path.exists() and not path.is_file():
        return "no regular files"
    if suffix_of(path) not in READ_SUFFIXES:
        return "of no format that is read, by its name"
    return None


def _in_words(left_out: dict[str, list[str]]) -> str:
    parts = []
    for reason, names in left_out.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        parts.append(f"{', '.join(names[:_MOST_NAMED])}{more} ({reason})")
    return "; ".join(parts)


def _walk(root: Path, skipped: set[str]) -> Iterator[Path]:
    """Files below ``root``, and links to folders, which are not entered; nor are skipped folders, which can be very large.

    Raises:
        UsageError: there are more files than can be meant.
    """
    n_files = 0
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        n_files += len(names)
        if n_files > MAX_FILES:
            raise UsageError(
                f"folder {root} holds more than {MAX_FILES:,} files: give a folder that holds the corpus alone"
            )
        yield from (Path(folder) / name for name in (*names, *links))
