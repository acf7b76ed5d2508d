"""What the address of an MLflow store says: which file it opens, or where its server is.

Addresses of databases are SQLAlchemy's, by which MLflow opens them, so it is asked here too: it reads ``%20`` as a blank, and
what stands behind a ``?`` is no part of a file's name.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from erasure_sweep.workers.credentials import MASK, masked
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.printed_commands import command, quoted

DEFAULT = "sqlite:///mlflow.db"


def named_uri(given: str | None) -> str | None:
    """The store that somebody named: in the config or in the environment."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or None


def ui_command(experiment: str, uri: str | None) -> str:
    """The command that shows an experiment of a store.

    Args:
        experiment: its name.
        uri: the store, as ``named_uri`` has it or as a manifest keeps it; with a password it is left to the environment.
    """
    words = ["ui", "--experiment", experiment]
    if uri is None:
        return command(*words)
    if MASK in masked(uri):
        return f"{command(*words)} (with MLFLOW_TRACKING_URI set to {masked(uri)})"
    return command(*words, "--tracking-uri", uri)


def store_uri(given: str | None = None) -> str:
    """The store that is meant: the one given, else that of MLFLOW_TRACKING_URI, else a file in this folder."""
    uri = (named_uri(given) or DEFAULT).strip()
    scheme, colon, rest = uri.partition("://")
    return f"{scheme.lower()}{colon}{rest}" if colon else uri


def sqlite_path(uri: str) -> Path | None:
    """The file that MLflow opens for a ``sqlite:///`` address; ``None`` for every other kind of store.

    Raises:
        UsageError: it names no file, but a database in memory.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme.lower().partition("+")[0] != "sqlite":
        return None
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    name = url.database or ""
    if name.startswith("file:") and url.query.get("uri"):  # SQLite's own addresses, inside of SQLAlchemy's
        name = unquote(urlsplit(name).path)
    if name in ("", ":memory:") or url.query.get("mode") == "memory":
        raise UsageError(f"tracking URI {uri!r} keeps nothing: pass --tracking-uri {DEFAULT}")
    return Path(name)


def sqlite_uri(path: Path) -> str:
    """The address by which MLflow opens this file, whatever its name holds."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def for_mlflow(uri: str) -> str:
    """The address as MLflow is given it, so that it makes no folder: one with a % by its name as it is written."""
    name, separator, rest = uri.partition(":///")
    return f"sqlite+pysqlite{separator}{rest}" if name == "sqlite" and {"%", "?"} & set(rest) else uri


def refuse_unusable(uri: str) -> None:
    """Refuse an address that is a folder, or that means another file than who wrote it thinks.

    Raises:
        UsageError: it is one.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "file" or (not colon and uri != "databricks"):
        raise UsageError(
            f"tracking URI {uri!r} is a folder, which MLflow no longer writes: pass --tracking-uri {DEFAULT}, or a server's "
            "http://HOST:PORT"
        )
    path = sqlite_path(uri)
    if path is None:
        return
    if path.parts[0].startswith("~"):
        raise UsageError(
            f"tracking URI {uri!r} means a folder called {path.parts[0]}, since nothing expands it there: pass "
            f"{quoted('--tracking-uri', sqlite_uri(path.expanduser()))}"
        )
    written = Path(rest.removeprefix("///").partition("?")[0])
    if written != path and not path.parent.is_dir() and written.parent.is_dir():
        raise UsageError(
            f"tracking URI {uri!r} means the file {path}, since a % begins a coded character there, and its folder does not "
            f"exist: for {written} pass {quoted('--tracking-uri', sqlite_uri(written))}"
        )


def is_remote(uri: str) -> bool:
    """Whether an MLflow server answers at this address, so that the store behind it is not ours to open."""
    return uri.partition(":")[0].lower() in ("http", "https", "databricks")


def server_address(uri: str) -> str | None:
    """Where people and their browsers find the store's server, without user and password; None where it has none."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def run_url(uri: str, experiment_id: str, run_id: str) -> str | None:
    """Address of a run's page on the store's server; None where it has none."""
    server = server_address(uri)
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}" if server else None
