"""MLflow stores in SQLite that are ready: to make one takes MLflow seconds, to copy one takes none."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path


def place_store(path: Path) -> str:
    """A copy of an empty store under a path, and its address."""
    shutil.copy(Path(_folder().name, "mlflow.db"), path)
    return f"sqlite:///{path}"


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with an empty store, made once in this process."""
    from mlflow import MlflowClient

    folder = tempfile.TemporaryDirectory(prefix="erasure-sweep-store-")
    MlflowClient(tracking_uri=f"sqlite:///{folder.name}/mlflow.db").search_experiments()
    return folder
