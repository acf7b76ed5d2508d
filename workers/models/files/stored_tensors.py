"""Tensors in weights files: all of a file at once, or one at a time when it is asked for.

A file may promise more than it holds: records that unfold, one value shown as a billion. Memory is bounded by the file's size
before anything is read, so both are refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS
from erasure_sweep.workers.storage.given_files import check_given_file

_WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Under what name training scripts keep a model's weights, beside those of the optimizer."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
_HARMLESS_BYTES = 2**30
_TIMES_SHARED = 4
"""Tied weights are in a file once and in a state dict twice, which is no reason for refusal."""


class StoredTensor(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def read_state_dict(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a torch file read with ``weights_only``; from a training's checkpoint
    the model's.

    Args:
        path: of the file.
        mapped: leave a torch file's tensors on the disk until they are used, where its format allows that.
    """
    try:
        check_given_file(path)
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        zipped = is_zipfile(path)
        if zipped:
            _refuse_packed(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=(mapped and zipped) or None)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is not a safe weights file: it holds more than tensors, or is damaged; save the weights alone "
            "(torch.save of model.state_dict(), or safetensors)"
        ) from error
    except (SafetensorError, BadZipFile, *LOAD_ERRORS) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
    state = _model_of(content)
    if state is None:
        raise DataError(f"{path} holds no state dict: expected names and tensors")
    _refuse_other_than_numbers(path, state)
    return state


def _refuse_packed(path: Path) -> None:
    """Refuse an archive whose records are more than the file: torch packs none, and reads packed ones whole."""
    with ZipFile(path) as archive:
        records = archive.infolist()
    n_bytes, size = sum(record.file_size for record in records), path.stat().st_size
    if n_bytes > size or any(record.compress_type != ZIP_STORED for record in records):
        raise DataError(
            f"{path} is packed: {size:,} bytes that would unfold to {n_bytes:,}; save it anew with torch.save, which "
            "packs nothing"
        )


def _model_of(content: object) -> dict[str, Tensor] | None:
    """The state dict that a file holds, by itself or among what a training keeps; ``None`` without one."""
    if not isinstance(content, dict):
        return None
    inside = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in inside.items()):
        return None
    state = dict(inside)
    while prefix := next((each for each in _PREFIXES if state and all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _refuse_other_than_numbers(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not plainly there, value by value, and more of them than the file can hold."""
    for name, values in state.items():
        if values.layout != torch.strided or values.is_quantized or values.device.type != "cpu":
            raise DataError(f"{path}: {name} is sparse, quantized or without values: save it as a plain tensor")
    n_bytes, size = sum(values.numel() * values.element_size() for values in state.values()), path.stat().st_size
    if n_bytes > max(_HARMLESS_BYTES, _TIMES_SHARED * size):
        raise DataError(
            f"{path} has {size:,} bytes and asks for {n_bytes:,}: its tensors repeat the same values; save them as they are"
        )


def stored_tensors(paths: Iterable[Path]) -> dict[str, StoredTensor]:
    """Every tensor of these files under the name it has there; other files are passed over."""
    stored: dict[str, StoredTensor] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            stored |= _in_safetensors(path)
        elif path.suffix == ".bin":
            state = read_state_dict(path, mapped=True)
            stored |= {
                name: StoredTensor(tuple(values.shape), partial(torch.detach, values)) for name, values in state.items()
            }
    return stored


def _in_safetensors(path: Path) -> dict[str, StoredTensor]:
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return {name: StoredTensor(shape, partial(_read_safetensors, path, name)) for name, shape in shapes.items()}


def _read_safetensors(path: Path, name: str) -> Tensor:
    """One tensor; the file is mapped for as long as this tensor lives, so that what was read can leave memory."""
    with _opened(path) as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        check_given_file(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
