"""Tensors in weights files: all of a file at once, or one at a time when it is asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.refusals import LOAD_ERRORS


class StoredTensor(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def read_state_dict(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a torch file read with ``weights_only``.

    Args:
        path: of the file.
        mapped: leave a torch file's tensors on the disk until they are used, where its format allows that.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        mapped = mapped and is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is not a safe weights file: it holds more than tensors, or is damaged") from error
    except (SafetensorError, *LOAD_ERRORS) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict: expected names and tensors")
    return state


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
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
