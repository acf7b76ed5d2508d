"""Processed weights in the staging folder: one safetensors file a model, whole or absent, its content hashed.

The metadata of the file holds the architecture, the hash of both, and where the model came from.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from workers.errors import DataError
from workers.hub_files import one_line
from workers.sources import Source
from workers.trace import ModelConfig


class StagedModel(NamedTuple):
    """What a staged file holds."""

    config: ModelConfig
    hash: str
    weights: dict[str, Tensor]


def read_staged(weights: Path | bytes) -> StagedModel:
    """Read a staged file and verify its content hash.

    Raises:
        DataError: the file is missing or damaged.
    """
    where = f"staged weights {weights}" if isinstance(weights, Path) else "staged weights from the object store"
    try:
        metadata, tensors = _read_file(weights) if isinstance(weights, Path) else _read_bytes(weights)
        config = ModelConfig(**json.loads(metadata["config"]))
        found = content_hash(config, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} are missing or damaged ({one_line(error)}): run again, they are made anew") from error
    if found != metadata.get("hash"):
        raise DataError(f"{where} are damaged (their content hash differs): run again, they are made anew")
    return StagedModel(config, found, tensors)


def content_hash(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Hash of an architecture and its processed weights, the same on every machine."""
    digest = blake2b(json.dumps(config.to_json(), sort_keys=True).encode(), digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_staged(path: Path) -> StagedModel | None:
    """A staged model that was made before; None where there is none or it is damaged, so that it is made anew."""
    if not path.exists():
        return None
    try:
        return read_staged(path)
    except DataError:
        return None


def write_staged(staged: StagedModel, source: Source, path: Path) -> None:
    """Write under a temporary name, sync, rename: a file of the final name is whole."""
    metadata = {"config": json.dumps(staged.config.to_json()), "hash": staged.hash, "origin": source.origin}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(staged.weights, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot stage model {source.name} in {path.parent}: {one_line(error)}") from error
    finally:
        with suppress(OSError):  # it may be the folder itself that is not to be had
            temporary.unlink(missing_ok=True)


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata, load_file(path)


def _read_bytes(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata is in the JSON header that follows its own length, eight bytes little-endian."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata, load(content)
