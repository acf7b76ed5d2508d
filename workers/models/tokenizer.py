"""A model's tokenizer, read from a file, a folder or the Hugging Face hub, and staged where it came from the hub.

Nearly every tokenizer is a ``tokenizer.json`` that the ``tokenizers`` library reads by itself; transformers, which
takes seconds to import, is asked only where there is none. Text is text here: a special token that is spelled out in a
document is encoded as the characters that it consists of.

The library's Rust code panics where a pattern of a tokenizer runs away, with a page for each thread on stderr: that is
kept from the terminal, and one line is raised.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from erasure_sweep.workers.errors import DataError, UsageError, one_line
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.hub.files import hub_file, list_files
from erasure_sweep.workers.models.files.file_formats import is_gguf
from erasure_sweep.workers.models.known_names import files_hash, recall_tokenizer, remember_tokenizer, write_whole
from erasure_sweep.workers.storage.given_files import read_given_json
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer

if TYPE_CHECKING:
    import tokenizers

BOS_TOKEN = "<|BOS|>"
_KNOWN_BOS = (BOS_TOKEN, "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
_SPACE, _REPLACEMENT = "▁", "\ufffd"
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_SPECIAL_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?")
_FAST_FILE = "tokenizer.json"
_SLOW_FILES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SLOW_EXTRAS = ("added_tokens.json", "config.json")


@runtime_checkable
class Tokenizer(Protocol):
    """What the project asks of a tokenizer."""

    @property
    def bos_id(self) -> int | None:
        """What a prompt begins with; ``None`` where the model has no such token."""

    @property
    def separator_id(self) -> int | None:
        """What stands between two texts in one prompt: the end-of-sequence token, else the BOS, ``None`` without both."""

    @property
    def n_ids(self) -> int:
        """One more than the highest id of the vocabulary, tokens added later left out."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the ids."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, no special tokens added."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each id's own text, for people."""


class _FastTokenizer:
    """A ``tokenizers.Tokenizer`` with its special tokens found."""

    def __init__(self, backend: tokenizers.Tokenizer, special: dict[str, str], source: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._source = source
        self.bos_id = self._first_id([special.get("bos_token"), *_KNOWN_BOS])
        end = self._first_id([special.get("eos_token")])
        self.separator_id = self.bos_id if end is None else end

    def _first_id(self, candidates: Iterable[str | None]) -> int | None:
        ids = (self._backend.token_to_id(token) for token in candidates if token is not None)
        return next((int(token_id) for token_id in ids if token_id is not None), None)

    @property
    def n_ids(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    @property
    def fingerprint(self) -> str:
        return fingerprint(f"{self.bos_id} {self.separator_id} ", self._backend.to_str())

    def to_files(self) -> dict[str, bytes]:
        """The files from which ``load_tokenizer`` makes the same tokenizer."""
        ends = {"bos_token": self.bos_id, "eos_token": self.separator_id}
        named = {name: self._backend.id_to_token(token_id) for name, token_id in ends.items() if token_id is not None}
        return {_FAST_FILE: self._backend.to_str().encode(), _SPECIAL_TOKEN_FILES[0]: json.dumps(named).encode()}

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        with _panics_as_errors(self._source):
            return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [self._token_string(int(token_id)) for token_id in ids]

    def _token_string(self, token_id: int) -> str:
        """A token's text as it stands in the midst of a text, where decoding it alone would lose what only a text has."""
        text, piece = self.decode([token_id]), self._backend.id_to_token(token_id) or ""
        if _SPACE in piece and (_SPACE not in text or self._backend.decoder is None):
            return piece.replace(_SPACE, " ")
        is_part = text == _REPLACEMENT and _BYTE_PIECE.fullmatch(piece)
        return piece if is_part else text


@contextmanager
def _panics_as_errors(source: str) -> Iterator[None]:
    """Turn a panic of the library into one line; what others write to stderr meanwhile comes after.

    Raises:
        DataError: the tokenizer panicked.
    """
    with TemporaryFile() as written:
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)
        panicked = False
        try:
            yield
        except BaseException as error:
            panicked = type(error).__name__ == "PanicException"  # of pyo3, which has no module to import it from
            if not panicked:
                raise
            reason = one_line(Exception(str(error)))
            raise DataError(
                f"tokenizer {source} fails on a text of the corpus ({reason}): its patterns run away or are damaged; give "
                "another tokenizer, or ready tokens (--corpus FILE.npy)"
            ) from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            if not panicked and (others := written.read()):
                os.write(2, others)


def load_tokenizer(source: str) -> Tokenizer:
    """Load the tokenizer that ``source`` names.

    Args:
        source: a ``tokenizer.json``, a folder with it or another tokenizer of Hugging Face's, or a hub repository,
            ``REPO@REVISION`` for another than its main branch.

    Raises:
        UsageError: there is no such file, folder or repository name.
        DataError: it is damaged, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_file() and is_gguf(path):
        return _from_transformers(source, path.parent, gguf_file=path.name)
    if path.is_file():
        return _from_json(path, path.parent, source)
    if path.is_dir():
        found = path / "tokenizer.json"
        return _from_json(found, path, source) if found.is_file() else _from_transformers(source, path)
    if source.endswith(".json") or not _HUB_ID.fullmatch(source):
        raise UsageError(f"there is no tokenizer at {source}: give a tokenizer.json, its folder, or a hub repository")
    return _from_hub(source)


def local_tokenizer(directory: Path) -> str | None:
    """The tokenizer of a model's folder, as ``load_tokenizer`` takes it; ``None`` where the folder holds none."""
    if (directory / _FAST_FILE).is_file():
        return str(directory / _FAST_FILE)
    others = (_SPECIAL_TOKEN_FILES[0], *_SLOW_FILES)
    return str(directory) if any((directory / name).is_file() for name in others) else None


def stage_tokenizer(source: str, staging: Path, refresh: bool = False) -> str:
    """Put a tokenizer of the hub, or of a GGUF file, into the staging folder and say where; others stay where they are.

    Args:
        source: as ``load_tokenizer`` takes it.
        staging: the folder; a tokenizer lies in ``tokenizers/``, by the hash of its files.
        refresh: ask the hub for what is staged as well.

    Raises:
        DataError: the hub has no such tokenizer or cannot be reached, or the folder cannot be written.
    """
    if is_gguf(source):
        return _stage_of_gguf(Path(source), staging)
    if not _HUB_ID.fullmatch(source):
        return source
    known = None if refresh else recall_tokenizer(source, staging)
    if known is not None:
        return str(known)
    folder = _snapshot(source, refresh)
    if (folder / _FAST_FILE).is_file():
        found = (folder / name for name in (*_SPECIAL_TOKEN_FILES, _FAST_FILE))
        files = {path.name: path.read_bytes() for path in found if path.is_file()}
    else:
        files = _from_transformers(source, folder).to_files()
    return _keep(files, source, staging)


def _stage_of_gguf(path: Path, staging: Path) -> str:
    """A tokenizer.json of what the file holds, which takes long to read: it is kept for as long as the file is the same."""
    state = path.stat()
    key = f"{path} {state.st_size} {state.st_mtime_ns}"
    known = recall_tokenizer(key, staging)
    if known is not None:
        return str(known)
    return _keep(_from_transformers(str(path), path.parent, gguf_file=path.name).to_files(), key, staging)


def _keep(files: Mapping[str, bytes], source: str, staging: Path) -> str:
    """Write a tokenizer's files, remember them under ``source``, and say where they are."""
    target = staging / "tokenizers" / files_hash(files)
    for name, content in files.items():
        write_whole(target / name, content)
    remember_tokenizer(source, target / _FAST_FILE, staging)
    return str(target / _FAST_FILE)


def _from_json(path: Path, folder: Path, source: str) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    refuse_pointer(path)
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for every kind of damage
        raise DataError(f"{path} is not a tokenizer.json that can be read ({_first_line(error)})") from error
    return _FastTokenizer(backend, _special_tokens(folder / name for name in _SPECIAL_TOKEN_FILES), source)


def _special_tokens(paths: Iterable[Path]) -> dict[str, str]:
    """``bos_token`` and ``eos_token`` as the files name them, an earlier file before a later one."""
    special: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            continue
        content = read_given_json(path)
        for name in ("bos_token", "eos_token"):
            token = content.get(name) if isinstance(content, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                special.setdefault(name, token)
    return special


def _from_hub(source: str) -> Tokenizer:
    folder = _snapshot(source)
    path = folder / _FAST_FILE
    return _from_json(path, folder, source) if path.is_file() else _from_transformers(source, folder)


def _snapshot(source: str, refresh: bool = False) -> Path:
    """The folder of the Hugging Face cache with a hub repository's tokenizer, fetched unless it is there."""
    repo, _, revision = source.partition("@")
    cached = None if refresh else _cached(repo, revision, (_FAST_FILE,))
    if cached is not None:
        return cached
    try:
        return _fetch(repo, revision)
    except DataError as error:
        cached = None if refresh else _cached(repo, revision, _SLOW_FILES)
        if cached is not None:
            return cached
        raise DataError(f"tokenizer.json of {repo} cannot be loaded: {error}") from error


def _cached(repo: str, revision: str, names: Iterable[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    found = (try_to_load_from_cache(repo, name, revision=revision or None) for name in names)
    try:
        return next((Path(path).parent for path in found if isinstance(path, str)), None)
    except HFValidationError:  # no repository can have this name: the hub's errors say so
        return None


def _fetch(repo: str, revision: str) -> Path:
    """Fetch a tokenizer's files, tokenizer.json last: where it is, the others are. A revision may have none of its own."""
    commit, names = list_files(repo, revision or None)
    known = (*_SPECIAL_TOKEN_FILES, *([_FAST_FILE] if _FAST_FILE in names else (*_SLOW_EXTRAS, *_SLOW_FILES)))
    wanted = [name for name in known if name in names]
    if not {_FAST_FILE, *_SLOW_FILES} & set(wanted):
        if revision:
            return _fetch(repo, "")
        raise DataError(f"{repo} holds no tokenizer")
    return [hub_file(repo, name, tuple(wanted), commit) for name in wanted][-1].parent


def _from_transformers(source: str, folder: Path, gguf_file: str | None = None) -> _FastTokenizer:
    from transformers import AutoTokenizer

    for name in (*_SPECIAL_TOKEN_FILES, *_SLOW_EXTRAS, *_SLOW_FILES):
        refuse_pointer(folder / name)
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **({"gguf_file": gguf_file} if gguf_file else {})
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and what its converters raise
        raise DataError(
            f"there is no tokenizer that can be read in {source} ({_first_line(error)}): save it as tokenizer.json, or name "
            "its class in tokenizer_config.json"
        ) from error
    return tokenizer_of(loaded, source)


def tokenizer_of(loaded: Any, source: str = "in memory") -> _FastTokenizer:
    """A tokenizer of transformers as this project asks it; the given one stays as it is.

    Args:
        source: what it is called in errors.

    Raises:
        DataError: it has no fast form, or no vocabulary.
    """
    if isinstance(loaded, _FastTokenizer):
        return loaded
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"tokenizer {source} has no fast form (tokenizer.json): convert it")
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    if (
        not backend.get_vocab(with_added_tokens=False).keys() - special
    ):  # transformers makes one up where files are missing
        raise DataError(
            f"tokenizer {source} has no vocabulary: put tokenizer.json, or vocab.json and merges.txt, beside it"
        )
    named = {name: getattr(loaded, name, None) for name in ("bos_token", "eos_token")}
    return _FastTokenizer(
        type(backend).from_str(backend.to_str()), {name: str(token) for name, token in named.items() if token}, source
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
