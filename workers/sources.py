"""What ``--model`` names → the files it means: a folder with config.json and weights, and what identifies its content.

Both a bundled model and one on the hub end as a directory: the hub's files go through the Hugging Face cache, whose
snapshot of a revision has the layout of the repository. What the cache holds is used as it is, without asking the
hub, so that a model once staged works where there is no network. Nothing here reads weights or imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workers.catalog import NANDA_REPOS, find_entry, model_entries
from workers.errors import DataError, UsageError, nearest
from workers.hub_files import hub_file, one_line

PROCESSING_VERSION = "1"
"""Raised by hand when the same files are to be turned into other weights, so that staged ones are made anew."""

_REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_HASHED_BYTES = 1 << 20


class Source(NamedTuple):
    """A model's files."""

    name: str
    layout: Literal["transformer_lens", "hugging_face"]
    directory: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    fingerprint: str
    """Hash of what determines the processed weights: the files (or their revision) and the code that processes them."""
    origin: str
    tokenizer: str | None


def find_source(spec: str) -> Source:
    """The files that ``spec`` names: a name of the catalog, a hub repository of Neel Nanda's, or a directory.

    Raises:
        UsageError: nothing has this name.
        DataError: the files cannot be used or fetched.
    """
    entry = find_entry(spec)
    if entry is not None and entry.kind == "hub":
        return hub_source(entry.name, entry.location)
    if entry is not None:
        return directory_source(Path(entry.location), entry.name, f"bundled {entry.name}")
    path = Path(spec).expanduser()
    if path.is_dir():
        path = path.resolve()
        return directory_source(path, path.name, str(path))
    if spec.startswith(NANDA_REPOS) and _REPO_ID.fullmatch(spec):
        return hub_source(spec.removeprefix(NANDA_REPOS), spec)
    if path.exists():
        raise UsageError(f"model {spec} is a file: give the directory that holds its config.json and weights")
    if "/" in spec or "\\" in spec or spec.startswith("~"):
        raise UsageError(f"model directory {spec} does not exist")
    raise UsageError(f"unknown model {spec!r}: {nearest(spec, [e.name for e in model_entries()])}")


def directory_source(directory: Path, name: str, origin: str) -> Source:
    """A model in a directory, TransformerLens' layout or Hugging Face's."""
    config = read_config(directory)
    layout = layout_of(config)
    weights = _weight_files(directory, layout)
    fingerprint = _fingerprint(_file_digest(path) for path in (directory / "config.json", *weights))
    tokenizer = _local_tokenizer(directory) or _named_tokenizer(directory, config)
    return Source(name, layout, directory, config, weights, fingerprint, origin, tokenizer)


def hub_source(name: str, repo: str) -> Source:
    """A model of the hub, fetched into the Hugging Face cache unless it is there."""
    weights_file = "model_final.pth" if repo.startswith(NANDA_REPOS) else "model.safetensors"
    files = ("config.json", weights_file)
    config_path = hub_file(repo, "config.json", files)
    revision = config_path.parent.name
    weights = hub_file(repo, weights_file, files, revision)
    config = read_config(config_path.parent)
    layout = layout_of(config)
    tokenizer = _named_tokenizer(config_path.parent, config) if layout == "transformer_lens" else repo
    fingerprint = _fingerprint([repo, revision])
    return Source(name, layout, config_path.parent, config, (weights,), fingerprint, f"{repo}@{revision}", tokenizer)


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a directory."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{directory} holds no config.json: a model directory is TransformerLens' (with n_layers, d_model, …) "
            "or Hugging Face's (with model_type)"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} holds {type(config).__name__} where an object with the model's shape is expected")
    return config


def layout_of(config: dict[str, Any]) -> Literal["transformer_lens", "hugging_face"]:
    """Hugging Face's configs name a ``model_type``; TransformerLens' do not."""
    return "hugging_face" if "model_type" in config else "transformer_lens"


def _weight_files(directory: Path, layout: str) -> tuple[Path, ...]:
    """The files that hold the weights: one, or the shards of a Hugging Face model with their index."""
    sharded = sorted(directory.glob("model-*-of-*.safetensors"))
    if layout == "hugging_face" and not (directory / "model.safetensors").is_file() and sharded:
        return (directory / "model.safetensors.index.json", *sharded)
    preferred = ["model.safetensors", "pytorch_model.bin" if layout == "hugging_face" else "model_final.pth"]
    for name in preferred:
        if (directory / name).is_file():
            return (directory / name,)
    if layout == "hugging_face":
        raise DataError(f"{directory} holds a config.json but no weights: expected {' or '.join(preferred)}")
    found = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".pth"))
    if not found:
        raise DataError(f"{directory} holds a config.json but no weights: expected *.safetensors or *.pth")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise DataError(
            f"{directory} holds several weights ({names}): name the one meant {preferred[0]} or {preferred[1]}"
        )
    return (found[0],)


def _fingerprint(parts: Iterable[str]) -> str:
    text = "\n".join([PROCESSING_VERSION, version("transformer_lens"), *parts])
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _file_digest(path: Path) -> str:
    """Name and content of one file, hashed."""
    digest = blake2b(path.name.encode() + b"\n", digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASHED_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return digest.hexdigest()


def _local_tokenizer(directory: Path) -> str | None:
    if (directory / "tokenizer.json").is_file():
        return str(directory / "tokenizer.json")
    return str(directory) if (directory / "tokenizer_config.json").is_file() else None


def _named_tokenizer(directory: Path, config: dict[str, Any]) -> str | None:
    """What ``tokenizer_name`` says: a folder or file relative to the model's own folder, else a hub repository."""
    name = config.get("tokenizer_name")
    if not isinstance(name, str) or not name:
        return None
    path = (directory / name).resolve()
    if path.is_dir():
        return _local_tokenizer(path)
    if path.is_file():
        return str(path)
    return name if _REPO_ID.fullmatch(name) else None
