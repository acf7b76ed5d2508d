"""Which local files travel with a job: those that a model or corpus of the config is read from, and nothing else.

A model's folder sends what models are read from, by name. Links are followed inside of the current folder alone, and what
holds a private key never travels: neither is left out where it is a part of what is measured, which would be another
measurement elsewhere, but refused. Everything else that lies in a model's folder stays here, and that is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.model_names import ListedModel
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.storage.small_files import parse_json

_OF_MODELS = (
    *("*.safetensors", "*.pth", "*.pt", "*.bin", "*.gguf", "*.index.json", "*config.json", "training_log.json"),
    *("tokenizer*.json", "vocab*.json", "*_map.json", "added_tokens.json", "vocab.txt", "merges.txt", "*.model"),
    *("*.tiktoken", "*.jinja", "*.spm", "*.bpe", "*.codes"),
)
"""Names of files that a model and its tokenizer are read from."""
_KEYS = ("*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.env", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*")
_KEY_MARK = b"PRIVATE KEY-----"
_HEAD_BYTES = 4096


class TravellingFiles(NamedTuple):
    """What travels and what of a model's folder does not."""

    sent: dict[str, Path]
    """By the path that the config has for it, or for the folder above it."""
    left: list[str]
    """Paths of what stays here."""


def travelling_files(config: SweepConfig) -> TravellingFiles:
    """Every file behind a relative path in the config.

    Raises:
        UsageError: a file is not there, lies outside of the current folder, or holds a private key.
        DataError: a file cannot be read.
    """
    from erasure_sweep.workers.models.checkpoints import split_point

    sent: dict[str, Path] = {}
    left: list[str] = []
    for entry in config.models:
        name = split_point(ListedModel.of(entry).spec)[0]
        tokenizer = _named_tokenizer(Path(name))
        for path in _model_files(name):
            known = any(fnmatch(path.name, pattern) for pattern in _OF_MODELS) and not path.name.startswith(".")
            wanted = known or (tokenizer is not None and tokenizer in (path.resolve(), *path.resolve().parents))
            if wanted and not path.is_dir():
                sent[path.as_posix()] = path
            else:
                left.append(path.as_posix())
    for corpus in (config.corpus, *config.own_corpora.values()):
        sent |= {path.as_posix(): path for path in _corpus_files(corpus)}
    for path in sent.values():
        _refuse_foreign(path)
    return TravellingFiles(sent, left)


def _named_tokenizer(folder: Path) -> Path | None:
    """The file or folder that a model's config.json names as its tokenizer, if one does."""
    try:
        name = parse_json((folder / "config.json").read_bytes()).get("tokenizer_name")
    except (OSError, ValueError, AttributeError):
        return None
    return (folder / name).resolve() if isinstance(name, str) and name else None


def is_relative(name: str) -> bool:
    """Whether a path is one of this machine; all others are the cluster's own."""
    return not name.startswith(("/", "~"))


def _model_files(name: str) -> Iterator[Path]:
    """What lies in a model's folder, but for hidden folders; nothing of a name, which goes before a folder of that name."""
    from erasure_sweep.workers.models.catalog import find_entry

    if find_entry(name) is not None or not is_relative(name):
        return
    folder = Path(name)
    if not folder.is_dir():
        if name.startswith("."):
            raise UsageError(f"model directory {name} does not exist")
        return  # a repository of the hub, or what TransformerLens calls so
    _refuse_outside(name)
    for parent, folders, names in os.walk(folder):
        links = [each for each in folders if Path(parent, each).is_symlink()]  # which are not walked
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield from (Path(parent, each) for each in sorted([*names, *links]))


def _corpus_files(name: str) -> Iterator[Path]:
    """The files that a corpus is read from; none of a known name or a set of the hub."""
    from erasure_sweep.workers.corpora.resolve_corpus import KNOWN_CORPORA, OWN, ArrayCorpus, find_corpus
    from erasure_sweep.workers.corpora.text_files import FileCorpus

    if name in (OWN, *KNOWN_CORPORA) or name.startswith("hf:") or not is_relative(name):
        return
    _refuse_outside(name)
    corpus = find_corpus(name)
    if isinstance(corpus, ArrayCorpus):
        yield corpus.path
    elif isinstance(corpus, FileCorpus):
        yield from (file.path for file in corpus.files)


def _refuse_outside(name: str) -> None:
    if ".." in PurePosixPath(name).parts or not PurePosixPath(name).parts:
        raise UsageError(
            f"{name} lies outside the current folder, or is it: what travels with a job has to lie below it; go to a folder "
            "above it and name it from there, or give an absolute path on the cluster"
        )


def _refuse_foreign(path: Path) -> None:
    """Links lead out of the folder, and keys out of everything."""
    real = path.resolve()
    if not real.is_relative_to(Path.cwd().resolve()):
        raise UsageError(
            f"{path} is a link to {real}, outside the current folder, where links are not followed: copy the file to its "
            "place, or give an absolute path on the cluster"
        )
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    if _KEY_MARK in head or any(fnmatch(path.name.lower(), pattern) for pattern in _KEYS):
        raise UsageError(
            f"{path} looks like a key or a file of passwords, and would travel with the job: move it out of what the config "
            "names, or give an absolute path on the cluster"
        )
