"""Processed weights in the staging folder: one safetensors file a model, whole or absent, its content hashed.

The metadata of the file holds the architecture, the hash of both, and where the model came from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.fingerprint import digest
from erasure_sweep.workers.models.files.weights_file import WeightsFile
from erasure_sweep.workers.models.forward import MATRICES
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes
from erasure_sweep.workers.models.sources import ModelFiles
from erasure_sweep.workers.storage.small_files import parse_json, safetensors_header
from erasure_sweep.workers.storage.whole_file import whole_file


class StagedHeader(NamedTuple):
    """What a staged file is."""

    config: ModelConfig
    hash: str


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
        config = ModelConfig(**parse_json(metadata["config"]))
        found = content_hash(config, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} are missing or damaged ({one_line(error)}): run again, they are made anew") from error
    if found != metadata.get("hash"):
        raise DataError(f"{where} are damaged (their content hash differs): run again, they are made anew")
    return StagedModel(config, found, tensors)


def count_stored(weights: Path | bytes) -> int:
    """How many numbers a staged file holds; 0 where it cannot be read, which is refused where it is."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with weights.open("rb") if isinstance(weights, Path) else BytesIO(weights) as file:
            entries = safetensors_header(file)
        return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")
    return 0


def content_hash(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Hash of an architecture and its processed weights, the same on every machine."""
    return _hash(config, ((name, weights[name]) for name in sorted(weights)))


def _hash(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of an architecture and named tensors, one of which is in memory at a time."""

    def pieces() -> Iterator[str | memoryview]:
        yield json.dumps(config.to_json(), sort_keys=True)
        for name, weight in tensors:
            tensor = weight.detach().cpu().contiguous()
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
            yield tensor.reshape(-1).view(torch.uint8).numpy().data

    return digest(pieces()).hex()


def find_staged(path: Path) -> StagedHeader | None:
    """A staged model that was made before; None where there is none or it is damaged, so that it is made anew.

    Its content is hashed tensor by tensor: there is never more than one of them in memory.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config = ModelConfig(**parse_json(metadata["config"]))
            tensors = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
            found = _hash(config, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    return StagedHeader(config, found) if found == metadata.get("hash") else None


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of a staged file while it is made; other processes wait.

    Args:
        path: of the staged file.
        name: of the model, for errors.

    Raises:
        DataError: its folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _staging_error(path, name, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # gone while it is held: who waits for it sees that and begins anew
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _staging_error(path: Path, name: str, error: Exception) -> DataError:
    """Why a model cannot be staged: its folder cannot be written, or holds what only another user may read."""
    try:
        path.open("rb").close()
    except PermissionError as unreadable:
        return DataError(
            f"staged weights {path} cannot be read ({unreadable.strerror}): let their owner `chmod a+r` them, or choose "
            "another --staging"
        )
    except OSError:
        pass
    return DataError(f"cannot stage model {name} in {path.parent}: {one_line(error)} (--staging names another folder)")


def write_staged(staged: StagedModel, source: ModelFiles, path: Path) -> None:
    """Write under a temporary name, sync, rename: a file of the final name is whole."""
    metadata = {"config": json.dumps(staged.config.to_json()), "hash": staged.hash, "origin": source.origin}
    with staged_file(path, source.name) as temporary:
        save_file(staged.weights, temporary, metadata)


def write_halved(whole: Path, path: Path, name: str) -> StagedHeader:
    """Stage a float32 file's weights anew with matrices of bfloat16, rounded as ``LeanModel`` rounds them.

    Args:
        whole: the float32 file.
        path: of the staged file.
        name: of the model, for errors.

    Raises:
        DataError: it cannot be written.
    """
    with staged_file(path, name) as temporary, safe_open(whole, framework="pt") as source:
        metadata = dict(sorted(source.metadata().items()))  # they come in any order
        config = ModelConfig(**parse_json(metadata["config"]))
        metadata["hash"] = "0" * len(metadata["hash"])
        with closing(WeightsFile(temporary, weight_shapes(config), metadata, halved=MATRICES)) as file:
            for key in weight_shapes(config):
                rows = source.get_slice(key)
                for row in range(rows.get_shape()[0]):
                    file.write(key, row, rows[row].to(torch.bfloat16 if key in MATRICES else torch.float32))
            file.sync()
            metadata["hash"] = content_hash(config, load_file(temporary))
            file.replace_metadata(metadata)
            file.sync()
    return StagedHeader(config, metadata["hash"])


@contextmanager
def staged_file(path: Path, name: str) -> Iterator[Path]:
    """A path beside the staged file's, whose name it takes in the end.

    Args:
        path: of the staged file.
        name: of the model, for errors.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with whole_file(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise _staging_error(path, name, error) from error


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata, load_file(path)


def _read_bytes(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    return safetensors_header(BytesIO(content)).get("__metadata__", {}), load(content)
