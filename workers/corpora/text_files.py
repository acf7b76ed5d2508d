"""Corpora on disk: text files, folders, and the source of Python's standard library.

Reading starts with names and sizes; a text file is read where a passage is drawn from it, and only there.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.corpora.row_files import (
    ROW_SUFFIXES,
    TEXT,
    TOKENS,
    column_of,
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
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer

_PROSE = (".txt", ".text", ".md", ".rst", ".tex", ".html", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml")
_CODE = (
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
TEXT_SUFFIXES = frozenset(_PROSE + _CODE)


class CorpusFile(NamedTuple):
    """One file of a corpus, by its path below the corpus' root."""

    name: str
    path: Path

    @property
    def has_rows(self) -> bool:
        return self.path.suffix.lower() in ROW_SUFFIXES

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

    @property
    def identity(self) -> list[object]:
        return ["files", self.root, self.lenient, [file.identity for file in self.files]]

    @property
    def needs_tokenizer(self) -> bool:
        """Whether text is read, judged by the first file; a mixture of text and tokens is refused by ``draw``."""
        first = self.files[0]
        return not first.has_rows or column_of(*first) == TEXT

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
        if not self.needs_tokenizer:
            return draw_rows([row for file in self.files for row in self._token_rows(file)], request)
        if tokenizer is None:
            raise no_tokenizer(request)
        return draw_text([document for file in self.files for document in self._documents(file)], request, tokenizer)

    def _token_rows(self, file: CorpusFile) -> Iterator[TokenRow]:
        if not file.has_rows or column_of(*file) != TOKENS:
            raise _mixture(self.files[0], file)
        return token_rows(*file)

    def _documents(self, file: CorpusFile) -> Iterator[Document]:
        if file.has_rows:
            if column_of(*file) != TEXT:
                raise _mixture(file, self.files[0])
            yield from row_documents(*file)
        elif size := file.path.stat().st_size:
            yield Document(file.name, size, partial(read_range, file.path), self.lenient)


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
    """A file, or the text, JSONL and parquet files below a folder; hidden ones are skipped.

    Raises:
        UsageError: the folder holds none.
        DataError: a file is a pointer of Git LFS.
    """
    root = str(path.resolve())
    if path.is_file():
        refuse_pointer(path)
        return FileCorpus([CorpusFile(path.name, path)], root)
    read = TEXT_SUFFIXES | ROW_SUFFIXES
    found = sorted((p.relative_to(path).as_posix(), p) for p in _walk(path, set()) if p.suffix.lower() in read)
    visible = [CorpusFile(*file) for file in found if not any(part.startswith(".") for part in Path(file[0]).parts)]
    if not visible:
        raise UsageError(f"folder {path} holds no text: give files in .txt, .md, .py and the like, .jsonl or .parquet")
    for file in visible:
        refuse_pointer(file.path)
    return FileCorpus(visible, root)


def _walk(root: Path, skipped: set[str]) -> Iterator[Path]:
    """Files below ``root``; skipped folders are not entered, for installed packages can be very many."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped]
        yield from (Path(folder) / name for name in names)
