"""A model's tokenizer, read from a file, a folder or the Hugging Face hub.

Nearly every tokenizer is a ``tokenizer.json`` that the ``tokenizers`` library reads by itself; transformers, which
takes seconds to import, is asked only where there is none. Text is text here: a special token that is spelled out in a
document is encoded as the characters that it consists of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from workers.errors import DataError, UsageError

if TYPE_CHECKING:
    import tokenizers

BOS_TOKEN = "<|BOS|>"
_KNOWN_BOS = (BOS_TOKEN, "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
_SPECIAL_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@runtime_checkable
class Tokenizer(Protocol):
    """What the project asks of a tokenizer."""

    @property
    def bos_id(self) -> int: ...

    @property
    def separator_id(self) -> int:
        """What stands between two texts in one prompt: the end-of-sequence token, or the BOS where there is none."""

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
        self.bos_id = self._first_id([special.get("bos_token"), *_KNOWN_BOS], source)
        self.separator_id = self._first_id([special.get("eos_token"), backend.id_to_token(self.bos_id)], source)

    def _first_id(self, candidates: Iterable[str | None], source: str) -> int:
        for token in candidates:
            token_id = None if token is None else self._backend.token_to_id(token)
            if token_id is not None:
                return int(token_id)
        raise DataError(
            f"tokenizer {source} has no beginning-of-sequence token: name it as bos_token in tokenizer_config.json,"
            " or give ready tokens (--corpus FILE.npy)"
        )

    @property
    def n_ids(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    @property
    def fingerprint(self) -> str:
        ends = f"{self.bos_id} {self.separator_id} "
        return blake2b(ends.encode() + self._backend.to_str().encode(), digest_size=16).hexdigest()

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [self.decode([token_id]) for token_id in ids]


def load_tokenizer(source: str) -> Tokenizer:
    """Load the tokenizer that ``source`` names.

    Args:
        source: a ``tokenizer.json``, a folder with it or another tokenizer of Hugging Face's, or a hub repository.

    Raises:
        UsageError: there is no such file, folder or repository name.
        DataError: it is damaged, has no beginning-of-sequence token, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _from_json(path, path.parent, source)
    if path.is_dir():
        found = path / "tokenizer.json"
        return _from_json(found, path, source) if found.is_file() else _from_transformers(source, str(path))
    if source.endswith(".json") or not _HUB_ID.fullmatch(source):
        raise UsageError(f"there is no tokenizer at {source}: give a tokenizer.json, its folder, or a hub repository")
    return _from_hub(source)


def _from_json(path: Path, folder: Path, source: str) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

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
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON ({error})") from error
        for name in ("bos_token", "eos_token"):
            token = content.get(name) if isinstance(content, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                special.setdefault(name, token)
    return special


def _from_hub(repo: str) -> Tokenizer:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(repo, "tokenizer.json"))
    except LocalEntryNotFoundError as error:
        raise _unreachable(repo, "out of reach, and not in the local cache") from error
    except EntryNotFoundError:
        return _from_transformers(repo, repo)
    except Exception as error:  # the hub's client raises httpx', requests' and its own, by version
        raise _unreachable(repo, _first_line(error)) from error
    for name in _SPECIAL_TOKEN_FILES:
        try:
            hf_hub_download(repo, name)
        except EntryNotFoundError:
            continue  # both are optional; a file of the snapshot that was never fetched counts as absent too
    return _from_json(path, path.parent, repo)


def _from_transformers(source: str, name_or_path: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and what its converters raise
        raise DataError(f"there is no tokenizer that can be read in {source} ({_first_line(error)})") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"tokenizer {source} has no fast form (tokenizer.json): convert it, or give ready tokens (.npy)"
        )
    named = {name: getattr(loaded, name, None) for name in ("bos_token", "eos_token")}
    return _FastTokenizer(backend, {name: str(token) for name, token in named.items() if token}, source)


def _unreachable(repo: str, why: str) -> DataError:
    return DataError(
        f"tokenizer.json of {repo} cannot be loaded from the Hugging Face hub ({why}): check the name, the"
        " connection and HF_HUB_OFFLINE, or give a tokenizer's folder or ready tokens (--corpus FILE.npy)"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
