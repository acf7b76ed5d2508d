"""Shard states as bytes: what a worker returns, the store keeps and a merge reads.

A state is sealed: a line that names the version of the results, a checksum (BLAKE2b, 16 bytes), then a compressed NumPy
archive of the arrays of every measure, named ``measure/array``. The checksum covers the version, the shard's id and the
archive, so that a state under another shard's name is noticed as well as one that is torn or altered. It holds no objects,
so nothing is unpickled.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.fingerprint import FINGERPRINT_BYTES, digest
from erasure_sweep.workers.records import State
from erasure_sweep.workers.version import RESULTS_VERSION

_HEAD = f"erasure-sweep state {RESULTS_VERSION}\n".encode()
_ANY_HEAD = re.compile(rb"erasure-sweep state (\d{1,9})\n")
_SAMPLED_BYTES = 2**16
_PAYLOAD = len(_HEAD) + FINGERPRINT_BYTES


def encode_states(states: Mapping[str, State], shard_id: str) -> bytes:
    """Sealed bytes of the states of all measures of one shard."""
    arrays = {
        f"{measure}/{name}": np.asanyarray(array) for measure, state in states.items() for name, array in state.items()
    }
    buffer = io.BytesIO()
    # np.savez_compressed cannot be told the level: its own takes three times as long for a few per cent less
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            archive.compression = zipfile.ZIP_DEFLATED if _shrinks(array) else zipfile.ZIP_STORED
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    payload = buffer.getvalue()
    return _HEAD + digest([_HEAD, shard_id, payload]) + payload


def _shrinks(array: np.ndarray) -> bool:
    """Whether compressing is worth its time, going by the middle of the array: sums of products are noise to it."""
    middle, half = array.size // 2, _SAMPLED_BYTES // array.itemsize // 2 + 1
    sample = array.ravel()[max(0, middle - half) : middle + half].tobytes()
    return len(zlib.compress(sample, 1)) < 0.9 * len(sample)


def is_whole(sealed: bytes, shard_id: str) -> bool:
    """Whether the bytes are as they were sealed, and this shard's."""
    payload = memoryview(sealed)[_PAYLOAD:]
    if len(payload) == 0 or not sealed.startswith(_HEAD):
        return False
    return digest([_HEAD, shard_id, payload]) == sealed[len(_HEAD) : _PAYLOAD]


def is_of_another_version(sealed: bytes) -> bool:
    """Whether bytes that are not whole were sealed by a later version, or as versions before 6 did: without a shard's id."""
    head = _ANY_HEAD.match(sealed)
    if head:
        return int(head[1]) != RESULTS_VERSION
    payload = memoryview(sealed)[FINGERPRINT_BYTES:]
    return len(payload) > 0 and digest([payload]) == sealed[:FINGERPRINT_BYTES]


def decode_state(sealed: bytes, shard_id: str, measure: str) -> State:
    """The state of one measure.

    Raises:
        DataError: the bytes are damaged, or another shard's.
    """
    if not is_whole(sealed, shard_id):
        raise DataError(f"the stored shard {shard_id} is damaged: run again, and it is measured anew")
    prefix = f"{measure}/"
    try:
        with np.load(io.BytesIO(memoryview(sealed)[_PAYLOAD:]), allow_pickle=False) as archive:
            return {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"the stored shard {shard_id} is sealed and holds no arrays ({error}): measure it anew with --fresh"
        ) from error
