"""MLflow's own pages on the store that a sweep was logged to: ``mlflow server``, on loopback, until Ctrl-C.

They open in a browser on the sweeps' experiment, where this machine has a screen to show one on; else the address is said.

The server runs as a session of its own, because MLflow starts further processes: whatever ends this command ends all of
them. The store's address goes through the environment, so that a database's password is not listed with the processes.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from typing import IO

from erasure_sweep.sweep.terminal.printing import echo
from erasure_sweep.sweep.tracking.artifact_places import put_right
from erasure_sweep.sweep.tracking.mlflow_store import TrackingStore
from erasure_sweep.sweep.tracking.store_address import for_mlflow, is_remote, server_address, sqlite_path
from erasure_sweep.sweep.tracking.tracker import Tracker
from erasure_sweep.workers.credentials import masked
from erasure_sweep.workers.errors import SweepError

_START_TIMEOUT_S = 600.0
"""Twenty seconds on an idle machine; whoever looks on can interrupt."""
_STOP_TIMEOUT_S = 10.0


def serve(
    uri: str, port: int, host: str = "127.0.0.1", experiment: str | None = None, show_browser: bool = False
) -> int:
    """Show a store in MLflow's UI until interrupted; of a store that has its server, only say where that is.

    Args:
        experiment: to open on; by default the one that sweeps were logged to last.
        show_browser: open the page in a browser, where there is one.

    Raises:
        UsageError: a SQLite file that is not there, or another application's database.
        SweepError: the port is taken, the server did not start, or the store does not answer.
    """
    TrackingStore(uri).check_readable()
    if is_remote(uri):
        page = _page(uri, uri, experiment)
        echo(f"MLflow runs at {page}")
        _open(page, show_browser)
        return 0
    _refuse_taken_port(host, port)
    if path := sqlite_path(uri):
        with suppress(sqlite3.Error):  # what cannot be written is shown as it is
            if news := put_right(path):
                echo(news)
    page = _page(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", uri, experiment)
    echo(f"starting MLflow on {uri} …")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        try:
            with _server(uri, host, port, log) as server:
                _wait_until_up(server, host, port, log)
                echo(f"MLflow runs at {page} (Ctrl-C ends it)")
                _open(page, show_browser)
                server.wait()
        except KeyboardInterrupt:
            echo("MLflow ended")
            return 0
        raise SweepError(f"MLflow's server ended by itself: {_last_line(log)}")


def _page(base: str, uri: str, experiment: str | None) -> str:
    """Address of the experiment's page under ``base``; of the whole UI where it has no such experiment."""
    tracker = Tracker(uri, experiment or "")
    if experiment is None:
        tracker = Tracker(uri, tracker.last_used() or "")
    found = tracker.page() if tracker.experiment else None
    if experiment is not None and found is None:
        echo(TrackingStore(uri).no_experiment(experiment))
    shown = server_address(base) or masked(base)
    return shown if found is None else f"{shown}/{found}"


def _open(page: str, show_browser: bool) -> None:
    """Show a page in the user's browser; without a screen there is none that could."""
    has_screen = sys.platform in ("darwin", "win32") or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    )
    if show_browser and has_screen:
        with suppress(webbrowser.Error):
            webbrowser.open(page)


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SweepError(f"cannot listen on {host}:{port}: {error.strerror}; pass another --port") from error


@contextmanager
def _server(uri: str, host: str, port: int, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """The server's processes; all have ended when this is left."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": for_mlflow(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONSAFEPATH": "1",  # what lies in the current folder is not imported in the place of packages
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runner costs twenty seconds and a gigabyte
    }
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True)
    try:
        yield server
    finally:
        _end_session(server)


def _end_session(server: subprocess.Popen[str]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, kind)
        except ProcessLookupError:
            return
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue


def _wait_until_up(server: subprocess.Popen[str], host: str, port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_healthy(host, port):
        if server.poll() is not None:
            raise SweepError(f"MLflow's server did not start: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise SweepError(f"MLflow's server did not answer within {_START_TIMEOUT_S:.0f} s: {_last_line(log)}")
        time.sleep(0.25)


def is_healthy(host: str, port: int) -> bool:
    """Whether an MLflow server answers there."""
    connection = HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
