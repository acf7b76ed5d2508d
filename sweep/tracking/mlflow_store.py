"""One MLflow store: its address, whether it answers, and each of its failures as one line with the way out.

A store is a SQLite file, another database, or an MLflow server; MLflow's client is the same for all, but it keeps a
caller waiting for minutes where one does not answer. So a quick try of our own comes before its first connection.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from erasure_sweep.sweep.tracking.database import is_store
from erasure_sweep.sweep.tracking.store_address import for_mlflow, is_remote, refuse_unusable, sqlite_path
from erasure_sweep.workers.credentials import masked, note
from erasure_sweep.workers.errors import SweepError, UsageError, nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PROBE_TIMEOUT_S = 5
ALONE_S = 60
"""How long another process may take to make a new store."""

_QUIET_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own defaults, 7 retries of 120 s, keep a driver waiting for minutes on a server that is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_USER_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_FOREIGN_HOST = "Invalid Host header"
_STATUS_OF_WORD = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingStore:
    """An MLflow store by its address; nothing is touched before ``client`` is used."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        note(uri)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client of this store."""
        quieten()
        from mlflow import MlflowClient

        path = sqlite_path(self.uri)
        with nullcontext() if path is None else _alone(path):
            if not is_remote(self.uri):
                is_store(self.uri)  # refuses other databases
            return MlflowClient(tracking_uri=for_mlflow(self.uri))  # which makes the tables of a new file

    def check_readable(self) -> None:
        """See that runs can be read from the store now; unlike for logging, none is made where there is none.

        Raises:
            UsageError: no such file, or no kind of store that MLflow supports.
            SweepError: it does not answer, refuses, or is no store; one line with the way out.
        """
        refuse_unusable(self.uri)
        path = sqlite_path(self.uri)
        is_there = path is None or path.is_file()
        with self.reading():
            quieten()
            if path is None:
                self.probe()
            if is_there and not is_remote(self.uri):
                is_there = is_store(self.uri)
        if not is_there:
            raise UsageError(
                f"no MLflow store at {path or self.shown}: `erasure-sweep run` makes one, or pass --tracking-uri of another"
            )

    def probe(self) -> None:
        """One quick try, because MLflow tries its own first connection for minutes."""
        if (path := sqlite_path(self.uri)) is not None:
            _probe_sqlite(path)
        elif self.uri.startswith("http"):
            from mlflow.utils.credentials import get_default_host_creds
            from mlflow.utils.rest_utils import http_request

            creds = get_default_host_creds(self.uri)
            http_request(creds, "/health", "GET", max_retries=0, timeout=PROBE_TIMEOUT_S, raise_on_status=False)
        elif not is_remote(self.uri):
            _probe_database(self.uri)

    @property
    def shown(self) -> str:
        """The address without its password."""
        return masked(self.uri)

    @property
    def way_out(self) -> str:
        """What to do about a store that fails."""
        if local := re.fullmatch(r"http://(?:localhost|127\.0\.0\.1)(?::(\d+))?/?", self.uri):
            port = f" --port {local[1]}" if local[1] else ""
            return f"start it with `mlflow server{port}`, or pass --tracking-uri sqlite:///mlflow.db"
        if sqlite_path(self.uri) is not None:
            return "see that this file can be written, or pass another --tracking-uri sqlite:///FILE"
        return "check the address and that it is running, or pass --tracking-uri sqlite:///mlflow.db"

    @contextmanager
    def reaching(self, kind: type[SweepError] = SweepError, way_out: str | None = None) -> Iterator[None]:
        """Whatever fails inside becomes one line: the store, what went wrong, and the way out."""
        try:
            yield
        except SweepError:
            raise
        except Exception as error:  # every storage library raises its own kind; the cause stays attached
            if refusal := _refusal(error):
                ways_out = "; ".join(filter(None, [refusal.way_out, way_out]))
                raise kind(f"MLflow at {self.shown} {refusal.what}: {ways_out}") from error
            raise kind(f"MLflow at {self.shown} {_reason(error)}: {way_out or self.way_out}") from error

    def runs(self, experiment_id: str, query: str) -> list[Run]:
        """All runs of an experiment that a query of MLflow's finds, oldest first."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([experiment_id], query, page_token=token)
            found.extend(page)
            if not (token := page.token):
                return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def no_experiment(self, name: str) -> str:
        """The line for an experiment that the store does not have."""
        with self.reading():
            names = [str(found.name) for found in self.client.search_experiments()]
        known = nearest(name, [each for each in names if each != "Default"] or names)
        return f"no experiment {name!r} in MLflow at {self.shown}: {known}"

    def reading(self) -> AbstractContextManager[None]:
        """``reaching`` for what only reads."""
        is_file = sqlite_path(self.uri) is not None
        return self.reaching(way_out="see that this file is an MLflow store and not in use" if is_file else None)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else opens the same file meanwhile: of two who make its tables at once, one would fail."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with suppress(OSError, NotImplementedError):  # a folder that cannot be written, or knows no locks
        lock.acquire(timeout=ALONE_S)
    try:
        yield
    finally:
        lock.release()


def quieten() -> None:
    """Bound MLflow's retries and silence its logs: failures reach us as exceptions, and would be printed twice."""
    for name, value in _QUIET_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # sets its loggers up, so this has to come before they are silenced

    for name in ("mlflow.store", "mlflow.tracking", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _probe_sqlite(path: Path) -> None:
    """Take and give back the write lock, which fails at once where the file is no store, is locked or read-only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=PROBE_TIMEOUT_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _probe_database(uri: str) -> None:
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.engine import make_url

    address = make_url(uri)
    port = address.port or _DATABASE_PORTS.get(address.get_backend_name())
    if address.host and port:
        socket.create_connection((address.host, port), timeout=PROBE_TIMEOUT_S).close()
    try:
        create_sqlalchemy_engine(uri).connect().close()
    except ModuleNotFoundError as error:
        raise SweepError(
            f"MLflow at {uri} needs the Python package {error.name}: install it "
            "(PostgreSQL's comes with `pip install 'erasure-sweep[postgres]'`)"
        ) from error


class _Refusal(NamedTuple):
    """A server that answers, but not to us."""

    what: str
    way_out: str


def _refusal(error: BaseException) -> _Refusal | None:
    """What a server refuses, None where it did not refuse."""
    status = _http_status(error)
    if status not in (401, 403):
        return None
    from mlflow.utils.credentials import read_mlflow_creds

    user = read_mlflow_creds().username
    if status == 401 and not user:
        return _Refusal("asks who you are (401)", f"set {_USER_VARIABLES}")
    if status == 401:
        return _Refusal(f"refuses the user {user} (401)", f"check {_USER_VARIABLES}")
    if _FOREIGN_HOST in str(error):
        return _Refusal("does not go by this name (403)", "start it with --allowed-hosts, or use a name that it knows")
    who = f"the user {user}" if user else "you"
    return _Refusal(f"does not let {who} do this (403)", f"ask for permission, or check {_USER_VARIABLES}")


def _http_status(error: BaseException) -> int | None:
    """What the server answered with: MLflow's own exceptions keep a word for it, those of requests the response."""
    link: BaseException | None = error
    while link is not None:
        word = getattr(link, "error_code", None)
        status = _STATUS_OF_WORD.get(word) if isinstance(word, str) else None
        status = status or getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        link = link.__cause__ or link.__context__
    return None


def _reason(error: BaseException) -> str:
    """What went wrong in a few words: the system's where it is the cause, else the first line of the message."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TimeoutError):
            return "does not answer"
        if isinstance(link, OSError) and link.strerror:
            return (
                f"failed: {link.strerror} ({link.filename})" if link.filename else f"cannot be reached: {link.strerror}"
            )
        if isinstance(original := getattr(link, "orig", None), Exception):  # SQLAlchemy's wrapper of a driver's error
            return f"failed: {_first_line(original)}"
        link = link.__cause__ or link.__context__
    return f"failed: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    text = masked(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".: ")
