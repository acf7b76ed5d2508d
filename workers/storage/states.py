"""Shard states as bytes: what a worker returns, the store keeps and a merge reads.

A state is a checksum (BLAKE2b, 16 bytes) followed by a compressed NumPy archive of the arrays of every measure, named
``measure/array``. It holds no objects, so nothing is unpickled; a torn or altered file fails its checksum.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.fingerprint import FINGERPRINT_BYTES, digest
from erasure_sweep.workers.records import State


def encode_states(states: Mapping[str, State]) -> bytes:
    """Bytes of the states of all measures of one shard."""
    arrays = {f"{measure}/{name}": array for measure, state in states.items() for name, array in state.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    payload = buffer.getvalue()
    return digest([payload]) + payload


def is_whole(encoded: bytes) -> bool:
    """Whether the bytes are as they were encoded."""
    payload = memoryview(encoded)[FINGERPRINT_BYTES:]
    return len(payload) > 0 and digest([payload]) == encoded[:FINGERPRINT_BYTES]


def decode_states(encoded: bytes) -> dict[str, State]:
    """The states of all measures of one shard.

    Raises:
        DataError: the bytes are damaged.
    """
    states: dict[str, State] = {}
    for name, array in _read(encoded).items():
        measure, _, key = name.partition("/")
        states.setdefault(measure, {})[key] = array
    return states


def decode_state(encoded: bytes, measure: str) -> State:
    """The state of one measure.

    Raises:
        DataError: the bytes are damaged.
    """
    prefix = f"{measure}/"
    return {name.removeprefix(prefix): array for name, array in _read(encoded, prefix).items()}


def _read(encoded: bytes, prefix: str = "") -> State:
    """The arrays whose names begin so."""
    if not is_whole(encoded):
        raise DataError("a stored shard is damaged: run again, and it is measured anew")
    with np.load(io.BytesIO(encoded[FINGERPRINT_BYTES:]), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name.startswith(prefix)}
