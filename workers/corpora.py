"""Name, files or token array → one token array with a fingerprint.

Whatever a corpus is made of, workers read one array of token ids, ``int32 [prompt, position]``. It is made once: a
staged array is found again by a hash of what determines it (names, sizes and times of the files, the request, the
tokenizer), and taken only if its content still has the fingerprint that was noted beside it.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Integer

from workers.corpus_files import FileCorpus, find_files, find_standard_library, standard_library_files
from workers.corpus_hub import KNOWN_SETS, GeluMix, HubCorpus, parse_hub_corpus
from workers.errors import DataError, UsageError, nearest
from workers.sampling import CorpusRequest, Draw, check_count
from workers.tokenization import BOS_TOKEN, Tokenizer, load_tokenizer

__all__ = [
    "BOS_TOKEN",
    "KNOWN_CORPORA",
    "CorpusRequest",
    "ResolvedCorpus",
    "Tokenizer",
    "fingerprint_tokens",
    "load_fitting_tokenizer",
    "load_tokenizer",
    "load_tokens",
    "read_text",
    "resolve_corpus",
    "standard_library_files",
]

KNOWN_CORPORA = ("stdlib", "gelu-mix", *KNOWN_SETS)
DRAWS_VERSION = 1
"""Raised by hand when the same request gives other tokens, so that arrays staged before are not taken."""


class ResolvedCorpus(NamedTuple):
    """A corpus as workers read it."""

    tokens: Path
    """.npy, int32 [prompts, seq_len]."""
    fingerprint: str
    n_prompts: int
    seq_len: int
    description: str
    """What was read and how it was cut, in one line."""


class ArrayCorpus(NamedTuple):
    """A .npy of ready tokens: taken in order, nothing shuffled, nothing added."""

    path: Path
    needs_tokenizer: bool = False

    @property
    def identity(self) -> list[object]:
        stat = self.path.stat()
        return ["array", str(self.path.resolve()), stat.st_size, stat.st_mtime_ns]

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> Draw:
        tokens = load_tokens(self.path)
        if tokens.shape[1] < request.seq_len:
            raise UsageError(
                f"{self.path} has {tokens.shape[1]} tokens per prompt, --seq-len is {request.seq_len}: lower it"
            )
        check_count(len(tokens), request)
        return Draw(
            tokens[: request.prompts, : request.seq_len], f"ready tokens of shape {tokens.shape}, taken in order"
        )


Corpus = ArrayCorpus | FileCorpus | HubCorpus | GeluMix
"""What prompts are drawn from: ``identity`` is JSON of what determines its content, ``draw`` takes prompts."""


def read_text(path: Path) -> str:
    """A source file's text; bytes that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")


def resolve_corpus(
    request: CorpusRequest, tokenizer: str | None, d_vocab: int, n_ctx: int, staging: Path
) -> ResolvedCorpus:
    """Make, or find again, the token array of a request.

    Args:
        request: which corpus, how many prompts of which length, and the seed of their order.
        tokenizer: the model's, as ``load_tokenizer`` takes it; ``None`` where it has none.
        d_vocab: the model's vocabulary, which every id must lie in.
        n_ctx: the model's longest prompt.
        staging: the folder in whose ``corpora`` arrays are kept.

    Raises:
        UsageError: the corpus is unknown or too small, or the prompts do not suit the model.
        DataError: a file is damaged, an id beyond the vocabulary, or the hub out of reach.
    """
    _check_request(request, n_ctx)
    try:
        corpus = find_corpus(request.corpus)
        needed = tokenizer is not None and corpus.needs_tokenizer
        loaded = load_fitting_tokenizer(tokenizer, d_vocab) if tokenizer is not None and needed else None
        identity = [DRAWS_VERSION, corpus.identity, list(request[1:]), d_vocab, loaded.fingerprint if loaded else None]
        key = blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
        stem = staging / "corpora" / key
        return _find_staged(stem, request) or _stage(stem, corpus.draw(request, loaded), request, d_vocab)
    except OSError as error:
        raise DataError(f"{error.filename or request.corpus} cannot be read ({error.strerror or error})") from error


def _check_request(request: CorpusRequest, n_ctx: int) -> None:
    if request.prompts < 1:
        raise UsageError(f"--prompts {request.prompts} is not possible: give 1 or more")
    if request.seq_len < 2:
        raise UsageError(f"--seq-len {request.seq_len} is too short: give 2 or more")
    if request.seq_len > n_ctx:
        raise UsageError(f"--seq-len {request.seq_len} is beyond the model's context: give {n_ctx} or less")


def find_corpus(name: str) -> Corpus:
    """The corpus that ``--corpus`` names; a known name goes before a file of that name.

    Raises:
        UsageError: there is none; the nearest known names are offered.
    """
    if name == "stdlib":
        return find_standard_library()
    if name == "gelu-mix":
        return GeluMix()
    if name in KNOWN_SETS:
        return KNOWN_SETS[name]
    if name.startswith("hf:"):
        return parse_hub_corpus(name)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        return ArrayCorpus(path)
    if path.is_file() or path.is_dir():
        return find_files(path)
    raise UsageError(
        f"corpus {name} is neither a known name nor a file or folder: {nearest(name, KNOWN_CORPORA)}"
        " (write hf:OWNER/NAME for a data set on the Hugging Face hub)"
    )


def load_fitting_tokenizer(source: str, d_vocab: int) -> Tokenizer:
    """Load a tokenizer whose every id the model has.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, out of reach, or another model's.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.n_ids > d_vocab:
        raise DataError(
            f"tokenizer {source} has ids up to {tokenizer.n_ids - 1}, the model's vocabulary ends at {d_vocab - 1}:"
            " it is another model's"
        )
    return tokenizer


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
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{name} is damaged or no .npy file ({error})") from error
    if not isinstance(tokens, np.ndarray):
        raise DataError(f"{name} is an archive of arrays, not a .npy file: save one array with numpy.save")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(f"{name} holds {tokens.dtype}, not integer token ids")
    if tokens.ndim != 2:
        raise DataError(f"{name} has shape {tokens.shape}, not [prompt, position]")
    return tokens


def fingerprint_tokens(tokens: Integer[np.ndarray, "prompt pos"]) -> str:
    """blake2b over shape and ids, the same on every machine."""
    digest = blake2b(np.array(tokens.shape, dtype="<i8").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
    return digest.hexdigest()


def _check_ids(tokens: Integer[np.ndarray, "prompt pos"], d_vocab: int, corpus: str) -> None:
    beyond = np.argwhere((tokens < 0) | (tokens >= d_vocab))
    if len(beyond):
        prompt, position = beyond[0].tolist()
        raise DataError(
            f"corpus {corpus} has token id {tokens[prompt, position]} at prompt {prompt}, position {position}: the"
            f" model's ids go from 0 to {d_vocab - 1}"
        )


def _find_staged(stem: Path, request: CorpusRequest) -> ResolvedCorpus | None:
    """The array staged before; ``None`` where there is none, or one that is damaged and has to be made again."""
    path = stem.with_suffix(".npy")
    try:
        record = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        tokens = load_tokens(path)
    except (OSError, ValueError, DataError):
        return None
    if not isinstance(record, dict) or tokens.dtype != np.int32 or tokens.shape[1] != request.seq_len:
        return None
    n_prompts = len(tokens)
    if not request.needed <= n_prompts <= request.prompts or record.get("fingerprint") != fingerprint_tokens(tokens):
        return None
    return ResolvedCorpus(path, record["fingerprint"], n_prompts, request.seq_len, str(record.get("description")))


def _stage(stem: Path, drawn: Draw, request: CorpusRequest, d_vocab: int) -> ResolvedCorpus:
    """Keep an array, and behind it the record by which it counts as finished."""
    _check_ids(drawn.tokens, d_vocab, request.corpus)
    tokens = np.ascontiguousarray(drawn.tokens, dtype=np.int32)
    fingerprint = fingerprint_tokens(tokens)
    description = f"{request.corpus}: {drawn.description}"
    record = {"fingerprint": fingerprint, "description": description}
    path = stem.with_suffix(".npy")
    _write(path, lambda stream: np.save(stream, tokens, allow_pickle=False))
    _write(stem.with_suffix(".json"), lambda stream: stream.write(json.dumps(record).encode()))
    return ResolvedCorpus(path, fingerprint, len(tokens), request.seq_len, description)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary name, sync, rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            try:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            except BaseException:
                temporary.unlink()
                raise
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
