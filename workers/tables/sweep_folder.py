"""The folder that a sweep leaves, as everybody reads it: its manifest, and the tables of each model.

``manifest.json`` says which models there are and in which subfolder each one's tables lie. A model that failed has no
tables; it is still returned, so that a page can say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.manifest import Manifest, ManifestEntry, ManifestHead
from erasure_sweep.workers.tables.files import check_version, read_tables


class ModelTables(NamedTuple):
    """One model of a sweep: its entry in the manifest and its tables by name."""

    about: ManifestEntry
    tables: dict[str, pd.DataFrame]
    sweep: Manifest | None = None
    """The sweep that measured it, where models of several stand on one page."""


def read_out(out: Path) -> list[ModelTables]:
    """Every model that the manifest in a sweep's folder names, with the tables found for it.

    Raises:
        SchemaError: the manifest or a table is of another schema version.
        DataError: there is no readable manifest, or a table is damaged.
    """
    return [read_model(out, entry) for entry in read_manifest(out / "manifest.json").models]


def read_model(out: Path, entry: ManifestEntry) -> ModelTables:
    """The tables of one model of a sweep's folder.

    Raises:
        SchemaError: a table is of another schema version.
        DataError: a table is damaged, or the entry names no folder of the sweep's own.
    """
    return ModelTables(entry, read_tables(out / folder_of(entry) / "tables"))


def folder_of(entry: ManifestEntry) -> str:
    """The name of a model's folder in its sweep's.

    Raises:
        DataError: it would lead elsewhere.
    """
    folder = entry.folder
    if folder in ("", ".", "..") or Path(folder).name != folder or "\\" in folder:
        raise DataError(
            f"the manifest's folder {folder!r} is none of the sweep's own: run the sweep again to write it anew"
        )
    return folder


def read_manifest(path: Path) -> Manifest:
    """A sweep's manifest.

    Raises:
        SchemaError: it is of another schema version.
        DataError: it is missing or damaged.
    """
    try:
        content = path.read_bytes()
        # first the version: a manifest of another one may say what it holds in another way
        check_version(path, ManifestHead.model_validate_json(content).schema_version)
        return Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {path.parent} is not the folder of a finished sweep") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: run the sweep again, finished shards are kept") from error
