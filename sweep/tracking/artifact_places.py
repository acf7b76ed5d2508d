"""Where artifacts lie that were logged to a SQLite file: beside it, in ``mlartifacts/EXPERIMENT/RUN/artifacts``.

MLflow keeps these places in full, while people move and copy the folder that holds the file and the artifacts alike. What
stands beside the file goes before what it says: read from there, and put right in the file before anything is logged.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = "mlartifacts"
_TIMEOUT_S = 5
_LONGEST = 100
"""Characters of a folder's name; file systems take 255 bytes."""
_PLACES = {"experiments": ("experiment_id", "artifact_location", 2), "runs": ("run_uuid", "artifact_uri", 4)}
"""Key and place of each table, and parts of the path from ``FOLDER`` on."""


def of_experiment(database: Path, experiment: str) -> str:
    """Address of the folder for an experiment's artifacts."""
    name = re.sub(r"[^\w.-]", "_", experiment).lstrip(".")[:_LONGEST] or "experiment"
    return (database.absolute().parent / FOLDER / name).as_uri()


def local_folder(address: str) -> Path | None:
    """The folder of this machine that an address of MLflow's means; ``None`` where it means another place."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def found_beside(database: Path, address: str) -> Path | None:
    """Where artifacts would lie now that were logged beside a database which has moved since.

    Args:
        database: the file.
        address: where they lie as the file has it.

    Returns:
        ``None`` where the file has not moved, or they were not logged beside it.
    """
    folder = local_folder(address)
    if folder is None or FOLDER not in folder.parts:
        return None
    first = len(folder.parts) - 1 - folder.parts[::-1].index(FOLDER)
    before, here = Path(*folder.parts[:first]), database.absolute().parent
    if before == here or (before.exists() and before.samefile(here)):
        return None
    return here.joinpath(*folder.parts[first:])


def put_right(database: Path) -> str | None:
    """Have a database say where the artifacts beside it lie, if it was moved or copied with them.

    Places that are neither beside it nor where it says are put beside it as well, so that nothing is logged to a folder that
    is gone.

    Returns:
        A line on it; ``None`` where there was nothing to do.
    """
    changed = lost = 0
    with closing(sqlite3.connect(database, timeout=_TIMEOUT_S)) as connection, connection:
        for table, (key, place, depth) in _PLACES.items():
            for row, address in connection.execute(f"SELECT {key}, {place} FROM {table}").fetchall():
                beside = found_beside(database, address or "")
                before = local_folder(address or "")
                if beside is None or before is None or beside.parts[-depth] != FOLDER:
                    continue
                if beside.exists() or not before.exists():
                    connection.execute(f"UPDATE {table} SET {place} = ? WHERE {key} = ?", (beside.as_uri(), row))
                    changed += 1
                    lost += table == "runs" and not beside.exists()
    if not changed:
        return None
    runs = f"{lost} run{'s' * (lost > 1)}"
    missing = f"; the artifacts of {runs} are not there, the next run of their sweep logs them" if lost else ""
    where = database.absolute().parent / FOLDER
    return f"{database} was moved or copied here: MLflow now looks for its artifacts in {where}{missing}"
