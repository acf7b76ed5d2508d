"""Token arrays in the staging folder: whole or absent, found again by what determines them, drawn by one process.

An array ``KEY-ASKED.npy`` holds the prompts of a request for ASKED of them, or fewer where the corpus ended first, no two
alike: one in which they are, of a version that took repeats, is drawn again. The
record ``KEY-ASKED.json`` beside it, written last, is what it counts as finished by, and holds its fingerprint. The first
N prompts of a longer request are those of a request for N, so an array serves shorter requests as well, and one that
holds all of its corpus serves longer ones to whom fewer are enough.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Integer

from erasure_sweep.workers.corpora.sampling import CorpusRequest, DrawnPrompts
from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.positions import PADDING
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.storage.whole_file import whole_file


class ResolvedCorpus(NamedTuple):
    """A corpus as workers read it."""

    tokens: Path
    """.npy, int32 [prompts, seq_len], with ``PADDING`` behind the ends of shorter prompts."""
    fingerprint: str
    n_prompts: int
    seq_len: int
    description: str
    """What was read and how it was cut, in one line."""
    n_repeats: int = 0
    """How much was passed over when they were drawn because it repeats what came before."""
    left_out: str = ""
    """Which files of a folder were not read, and why."""

    def passing_over(self, left_out: str) -> ResolvedCorpus:
        """The same, said with what of its folder was not read, if anything."""
        words = f"{self.description}; left out: {left_out}" if left_out else self.description
        return self._replace(left_out=left_out, description=words)


class _StagedTokens(NamedTuple):
    """An array that was staged, whole."""

    corpus: ResolvedCorpus
    tokens: Integer[np.ndarray, "prompt pos"]
    asked: int
    """Prompts of the request that it was drawn for."""

    def n_serving(self, request: CorpusRequest) -> int:
        """How many of its prompts answer a request that differs in their number alone; 0 where it does not."""
        n_prompts = len(self.tokens)
        is_all = n_prompts < self.asked
        if n_prompts < request.prompts and not (is_all and n_prompts + self.corpus.n_repeats >= request.needed):
            return 0
        return min(n_prompts, request.prompts)


def find_tokens(folder: Path, key: str, request: CorpusRequest) -> ResolvedCorpus | None:
    """The array staged before, cut where it is longer; ``None`` where none serves or it is damaged: to be made again.

    Raises:
        DataError: a shorter array cannot be written.
    """
    exact = f"{key}-{request.prompts}"
    for record in sorted(folder.glob(f"{key}-*.json"), key=lambda record: record.stem != exact):
        staged = _read(record, request.seq_len)
        n_prompts = staged.n_serving(request) if staged else 0
        if staged and n_prompts == len(staged.tokens):
            return staged.corpus
        if staged and n_prompts:
            prompts = [row[row != PADDING] for row in staged.tokens[:n_prompts]]
            shorter = DrawnPrompts(prompts, staged.corpus.description, staged.corpus.n_repeats)
            return write_tokens(folder, key, request, shorter)
    return None


def _read(record: Path, seq_len: int) -> _StagedTokens | None:
    path = record.with_suffix(".npy")
    try:
        noted = parse_json(record.read_text(encoding="utf-8"))
        tokens = load_tokens(path)
        fingerprint, asked, n_repeats = noted["fingerprint"], int(noted["asked"]), int(noted.get("repeats", 0))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    if tokens.dtype != np.int32 or tokens.shape[1] != seq_len or fingerprint != fingerprint_tokens(tokens):
        return None
    if len({prompt.tobytes() for prompt in tokens}) < len(tokens):
        return None
    corpus = ResolvedCorpus(path, fingerprint, len(tokens), seq_len, str(noted.get("description")), n_repeats)
    return _StagedTokens(corpus, tokens, asked)


def write_tokens(folder: Path, key: str, request: CorpusRequest, drawn: DrawnPrompts) -> ResolvedCorpus:
    """Keep an array, and behind it the record by which it counts as finished; prompts that are shorter are filled up.

    Raises:
        DataError: it cannot be written.
    """
    tokens = np.full((len(drawn.prompts), request.seq_len), PADDING, dtype=np.int32)
    for row, ids in zip(tokens, drawn.prompts, strict=True):
        row[: len(ids)] = ids
    fingerprint = fingerprint_tokens(tokens)
    record = {
        "fingerprint": fingerprint,
        "description": drawn.description,
        "asked": request.prompts,
        "repeats": drawn.n_repeats,
    }
    path = folder / f"{key}-{request.prompts}.npy"
    _write(path, lambda stream: np.save(stream, tokens, allow_pickle=False))
    _write(path.with_suffix(".json"), lambda stream: stream.write(json.dumps(record).encode()))
    return ResolvedCorpus(path, fingerprint, len(tokens), tokens.shape[1], drawn.description, drawn.n_repeats)


@contextmanager
def drawing(folder: Path, key: str) -> Iterator[None]:
    """Let one process at a time draw an array: the others wait, and find it.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{key}.lock")
        lock.acquire()
    except (
        NotImplementedError
    ):  # a file system without locks: the same array may be drawn twice, and comes out the same
        yield
        return
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


_DAMAGED = (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError)
"""What numpy raises for a header that is none."""


def load_tokens(path: Path | bytes) -> Integer[np.ndarray, "prompt pos"]:
    """An array of token ids from a .npy file or its content; a file is mapped, not read.

    Raises:
        DataError: it is damaged, no array of integers, or not two-dimensional.
    """
    name = "the token array" if isinstance(path, bytes) else str(path)
    try:
        if isinstance(path, bytes):
            tokens = np.load(io.BytesIO(path), allow_pickle=False)
        else:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED as error:
        why = "" if "pickle" in str(error) else f" ({one_line(error)})"  # numpy would have it unpickled
        raise DataError(f"{name} is damaged or no .npy file{why}") from error
    if not isinstance(tokens, np.ndarray):
        raise DataError(f"{name} is an archive of arrays, not a .npy file: save one array with numpy.save")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(f"{name} holds {tokens.dtype}, not integer token ids")
    if tokens.ndim != 2:
        raise DataError(f"{name} has shape {tokens.shape}, not [prompt, position]")
    return tokens


def fingerprint_tokens(tokens: Integer[np.ndarray, "prompt pos"]) -> str:
    """Hash of shape and ids, the same on every machine."""
    shape = np.array(tokens.shape, dtype="<i8").tobytes()
    return fingerprint(shape, np.ascontiguousarray(tokens, dtype="<i4").tobytes())


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            write(stream)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
