"""Means over a scan, staged for the stages behind it: whole or absent, named for the weights and the content.

Later stages take a writer's mean over all tokens as what stays when the writer is replaced, and turn its output within the
stream's covariance, the mean of products, into placebos. The file's name holds the hash of its content:
by that, never by the path, it enters the ids of shards, and a worker that reads another content refuses it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.records import StagedMeans
from erasure_sweep.workers.storage.whole_file import whole_file

Means = Float[np.ndarray, "*mean d_model"]


def write_means(weights: Path, means: Means) -> StagedMeans:
    """Stage means of a model's terms, or of products.

    Args:
        weights: of the model, as they are staged.

    Raises:
        DataError: they cannot be written.
    """
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(means, dtype="<f8"), allow_pickle=False)
    own = fingerprint(content.getvalue())
    path = weights.parents[1] / "means" / f"{weights.stem}-{own}.npy"
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    return StagedMeans(str(path), own)


def load_means(path: Path, content: bytes | None = None) -> Means:
    """Staged means.

    Args:
        content: of the file, where it cannot be read from here.

    Raises:
        DataError: they are gone, damaged or another model's.
    """
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): run again, and it is made anew") from error
    if fingerprint(content) != path.stem.rpartition("-")[2]:
        raise DataError(f"{path} is damaged: run again, and it is made anew")
    means: Means = np.load(io.BytesIO(content), allow_pickle=False)
    return means
