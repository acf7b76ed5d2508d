"""What later stages take from a scan, staged for them: means and covariances, whole or absent, named for weights and content.

A writer's mean over all tokens is what stays when the writer is replaced; the stream's covariance is what placebos are drawn
with. Both stand in the folder ``means``. The file's name holds the hash of its content: by that, never by the path, it enters
the ids of shards, and a worker that reads another content refuses it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.records import StagedArray
from erasure_sweep.workers.storage.whole_file import whole_file

Array = Float[np.ndarray, "*rows d_model"]


def write_array(weights: Path, array: Array) -> StagedArray:
    """Stage means of a model's terms, or covariances of its stream.

    Args:
        weights: of the model, as they are staged.

    Raises:
        DataError: it cannot be written.
    """
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array, dtype="<f8"), allow_pickle=False)
    own = fingerprint(content.getvalue())
    path = weights.parents[1] / "means" / f"{weights.stem}-{own}.npy"
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    return StagedArray(str(path), own)


def load_array(path: Path, content: bytes | None = None) -> Array:
    """What was staged.

    Args:
        content: of the file, where it cannot be read from here.

    Raises:
        DataError: it is gone, damaged or another model's.
    """
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): run again, and it is made anew") from error
    if fingerprint(content) != path.stem.rpartition("-")[2]:
        raise DataError(f"{path} is damaged: run again, and it is made anew")
    array: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return array
