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
from erasure_sweep.workers.storage.small_files import parse_json, read_small_file
from erasure_sweep.workers.tables.files import check_version, read_tables

PARTS = ("tables", "figures", "index.html")
"""What a model's folder holds."""


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
    return ModelTables(entry, read_tables(model_folder(out, entry.folder) / "tables"))


def is_own_name(folder: str) -> bool:
    """Whether this can be the name of a model's folder: below the sweep's, and none that the sweep keeps for itself."""
    return Path(folder).name == folder and not folder.startswith(".") and not set(folder) & {"\\", "\0", ":"}


def model_folder(out: Path, folder: str) -> Path:
    """A model's folder in its sweep's, to be read, written or removed: the one place in which manifests are trusted.

    Args:
        out: the sweep's.
        folder: as the manifest names it.

    Raises:
        DataError: it is elsewhere, or leads there by a link.
    """
    if not is_own_name(folder):
        raise DataError(
            f"the manifest's folder {folder!r} is none of the sweep's own: run the sweep again to write it anew"
        )
    path, real = out / folder, out.resolve() / folder
    for part in (".", *PARTS):
        if (path / part).resolve() != real / part:
            raise DataError(
                f"{path / part} leads to {(path / part).resolve()}, out of the sweep's folder: put what is there in the "
                "link's place, or remove the link"
            )
    return path


def read_manifest(path: Path) -> Manifest:
    """A sweep's manifest.

    Raises:
        SchemaError: it is of another schema version.
        DataError: it is missing or damaged.
    """
    try:
        content = read_small_file(path)
        # first the version: a manifest of another one may say what it holds in another way
        head = ManifestHead.model_validate(parse_json(content))
        check_version(path, head.schema_version, head.version)
        return Manifest.parse(content, str(path))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {path.parent} is not the folder of a finished sweep") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: run the sweep again, which restores it; what is measured is kept"
        ) from error
