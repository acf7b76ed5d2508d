"""What names of the hub were found to be, kept in the staging folder, so that it is enough where there is no hub.

Each is a small JSON file of ``names/``, whose name is a hash of what it is about: a model as it was named, the
checkpoints of a repository, or a tokenizer. Paths in them are relative to the staging folder, which may be copied. They
are written whole or not at all; one that is damaged, or that another version of this project wrote, counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.fingerprint import digest, fingerprint
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.storage.whole_file import whole_file

PROCESSING_VERSION = "2"
"""Raised by hand when the same files are to be turned into other weights, so that staged ones are made anew."""


class KnownModel(NamedTuple):
    """A model of the hub whose weights are staged."""

    spec: str
    name: str
    base: str
    fingerprint: str
    """Of its source: the staged file's name."""
    origin: str
    """Repository and revision."""
    tokenizer: str | None
    """The hub repository of its tokenizer."""
    training_tokens: int | None = None
    training_steps: int | None = None


class Checkpoint(NamedTuple):
    """Weights from the midst of a training."""

    file: str
    """Below the model's folder or repository."""
    label: int
    """The number in the file's name."""
    tokens: int | None
    """On how many tokens they were trained, where that is known."""
    steps: int | None

    @property
    def point(self) -> int:
        """What names it behind the ``@``."""
        return self.label if self.tokens is None else self.tokens


class TrainingCheckpoints(NamedTuple):
    """The checkpoints of a model, in the order of training, and where it ended."""

    checkpoints: tuple[Checkpoint, ...]
    final_tokens: int | None
    final_steps: int | None
    revision: str | None = None
    """The commit of the repository that holds them; ``None`` for a directory."""
    unlisted: str | None = None
    """Why the hub did not say which there are: these then are those that its cache holds, and there may be others."""


def processing() -> str:
    """The code that turns files into processed weights."""
    return f"{PROCESSING_VERSION} {version('transformer_lens')}"


def staged_path(staging: Path, source: str, halved: bool = False) -> Path:
    """Where the processed weights of a source lie.

    Args:
        source: its fingerprint.
        halved: those with matrices of bfloat16; they have a file of their own.
    """
    stem = fingerprint(f"{source} bfloat16") if halved else source
    return staging / "models" / f"{stem}.safetensors"


def is_staged(spec: str, staging: Path) -> bool:
    """Whether a model of the catalog can be measured without a network: it is bundled, or was staged here.

    Looks at names and existence alone: neither weights are hashed nor is the hub asked.
    """
    entry = find_entry(spec)
    if entry is not None and entry.kind == "bundled":
        return True
    found = recall_model(spec, staging) or (recall_model(entry.name, staging) if entry else None)
    if found is None or not any(staged_path(staging, found.fingerprint, each).is_file() for each in (False, True)):
        return False
    return found.tokenizer is None or recall_tokenizer(found.tokenizer, staging) is not None


def remember_model(found: KnownModel, staging: Path) -> None:
    """Keep what a name was found to be."""
    _write(staging, f"model {found.spec}", found._asdict())


def recall_model(spec: str, staging: Path) -> KnownModel | None:
    """What a name was found to be; ``None`` where that is not known."""
    values = _read(staging, f"model {spec}")
    return KnownModel(**values) if values else None


def remember_checkpoints(repo: str, training: TrainingCheckpoints, staging: Path) -> None:
    """Keep which checkpoints a repository holds."""
    rows = [list(checkpoint) for checkpoint in training.checkpoints]
    _write(staging, f"checkpoints {repo}", training._asdict() | {"checkpoints": rows})


def recall_checkpoints(repo: str, staging: Path) -> TrainingCheckpoints | None:
    """Which checkpoints a repository holds; ``None`` where that is not known."""
    values = _read(staging, f"checkpoints {repo}")
    if values is None:
        return None
    return TrainingCheckpoints(**values | {"checkpoints": tuple(Checkpoint(*row) for row in values["checkpoints"])})


def remember_tokenizer(source: str, path: Path, staging: Path) -> None:
    """Keep where the tokenizer of a hub repository is staged."""
    _write(staging, f"tokenizer {source}", {"path": path.relative_to(staging).as_posix()})


def recall_tokenizer(source: str, staging: Path) -> Path | None:
    """Where the tokenizer of a hub repository is staged; ``None`` where it is not, or is damaged."""
    values = _read(staging, f"tokenizer {source}")
    path = staging / values["path"] if values else None
    return path if path and path.is_file() and path.parent.name == folder_hash(path.parent) else None


def folder_hash(folder: Path) -> str:
    """``files_hash`` of the files that a tokenizer's folder holds."""
    return files_hash({path.name: path.read_bytes() for path in folder.glob("*.json")})


def files_hash(files: Mapping[str, bytes]) -> str:
    """Hash of a tokenizer's files, names and content: what its folder in the staging folder is called."""
    return digest(chain.from_iterable((f"{name} {len(files[name])}\n", files[name]) for name in sorted(files))).hex()


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, sync, rename: a file of the final name is whole.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path.parent} cannot be written: {error}") from error


def _write(staging: Path, about: str, values: Mapping[str, Any]) -> None:
    content = {"about": about, "processing": processing(), **values}
    write_whole(_path(staging, about), json.dumps({"check": _check(content), **content}, indent=1).encode())


def _read(staging: Path, about: str) -> dict[str, Any] | None:
    """What was written; ``None`` where there is nothing, it is damaged, or another version wrote it."""
    try:
        content = parse_json(_path(staging, about).read_text(encoding="utf-8"))
        whole = content.pop("check") == _check(content)
        current = content.pop("about") == about and content.pop("processing") == processing()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if whole and current else None


def _check(content: Mapping[str, Any]) -> str:
    return fingerprint(json.dumps(content, sort_keys=True))


def _path(staging: Path, about: str) -> Path:
    return staging / "names" / f"{fingerprint(about)}.json"
