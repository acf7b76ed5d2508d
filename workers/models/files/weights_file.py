"""A safetensors file of weights that is written piece by piece, so that no more than a piece is in memory.

The format: eight bytes of length, a JSON header of names, shapes and places, then the values without gaps. Here values
begin where torch would put them (``ALIGNMENT``), and tensors that would push later ones off such places come last: what
is mapped from the file is used as it lies, and processes that map it share it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from erasure_sweep.workers.models.forward import ALIGNMENT

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class WeightsFile:
    """A file that is being written; what is not written is zero.

    Args:
        path: of the file.
        shapes: of the tensors, by name.
        metadata: of the header; its values can be replaced by others of the same length.
        halved: names of the tensors that are bfloat16; the others are float32.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        metadata: Mapping[str, str],
        halved: frozenset[str] = frozenset(),
    ) -> None:
        self._shapes, self._halved = dict(shapes), halved
        self._shapes = {name: shapes[name] for name in sorted(shapes, key=lambda name: (self._is_odd(name), name))}
        self._offsets, end = {}, 0
        for name, shape in self._shapes.items():
            self._offsets[name], end = end, end + self._bytes(name, shape)
        self._file = path.open("w+b")
        self._start = self._write_header(metadata)
        self._file.truncate(self._start + end)

    def close(self) -> None:
        """Close the file, whole or not."""
        self._file.close()

    def write(self, name: str, layer: int | None, values: Tensor) -> None:
        """Write a tensor, or one layer of a stacked one.

        Raises:
            ValueError: the values are of another shape or kind.
        """
        shape = self._shapes[name] if layer is None else self._shapes[name][1:]
        if tuple(values.shape) != shape or values.dtype != self._dtype(name):
            dtype = str(self._dtype(name)).removeprefix("torch.")
            raise ValueError(f"{name} takes {dtype} of {shape}, not {values.dtype} of {tuple(values.shape)}")
        self._file.seek(self._start + self._offsets[name] + (layer or 0) * self._bytes(name, shape))
        self._file.write(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def replace_metadata(self, metadata: Mapping[str, str]) -> None:
        """Write the header again.

        Raises:
            ValueError: it is of another length.
        """
        if len(self._header(metadata)) != self._start:
            raise ValueError("the new metadata are of another length")
        self._write_header(metadata)

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_header(self, metadata: Mapping[str, str]) -> int:
        header = self._header(metadata)
        self._file.seek(0)
        self._file.write(header)
        return len(header)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        entries: dict[str, object] = {"__metadata__": dict(metadata)}
        for name, shape in self._shapes.items():
            start, dtype = self._offsets[name], _NAMES[self._dtype(name)]
            end = start + self._bytes(name, shape)
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(entries).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    def _dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16 if name in self._halved else torch.float32

    def _bytes(self, name: str, shape: tuple[int, ...]) -> int:
        return self._dtype(name).itemsize * math.prod(shape)

    def _is_odd(self, name: str) -> bool:
        return self._bytes(name, self._shapes[name]) % ALIGNMENT != 0
