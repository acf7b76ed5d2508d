"""A whole set of services on loopback, as people run them: PostgreSQL, S3 (moto's server), and MLflow's server with both
behind it and basic auth before it.

``python -m tests.support.servers.services`` (``make services``) runs them until Ctrl-C; tests use
``Services``, or its parts alone:

    with Services(folder) as services:
        subprocess.run(["erasure-sweep", "run"], env=os.environ | services.environment())
        services.mlflow.stop()

Each part listens on the same port whenever it is started again. Everything but the objects in S3 is in ``folder``; these are
in the server's memory, and ``make services`` keeps them there from one time to the next.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import click

from erasure_sweep.sweep.terminal.printing import echo
from erasure_sweep.sweep.tracking.ui_server import is_healthy
from erasure_sweep.workers.errors import SweepError
from tests.support.servers.cluster import free_port
from tests.support.servers.s3 import S3Server

STOP_S = 10
USER = "admin"
HOST = "127.0.0.1"


class Service:
    """A process that listens on a port.

    Args:
        name: what it is, for people.
        log: file of what it says.
        port: to listen on; by default a free one.
    """

    def __init__(self, name: str, log: Path, port: int = 0) -> None:
        self.name, self.log, self.port = name, log, port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def is_up(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Accept connections, and answer none."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def _start(self, command: list[str], **how: Any) -> None:
        """Start, and return when it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **how)
        while not self.is_up():
            if not self.runs:
                self._end(signal.SIGKILL)
                raise SweepError(f"{self.name} did not start: {self.last_words()} (see {self.log})")
            time.sleep(0.1)

    def _end(self, kind: signal.Signals) -> None:
        """Send this to the whole session, then SIGKILL, and return when it has ended."""
        process, self._process = self._process, None
        for each in (kind, signal.SIGKILL):
            if process is None:
                return
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, each)
                process.wait(STOP_S)


class Postgres(Service):
    """A PostgreSQL cluster of its own, of the user ``mlflow``.

    Args:
        folder: for the cluster; made when it first starts. Of the user ``postgres`` when this one is root, whom
            PostgreSQL refuses.
        password: of the user.
        port: to listen on; by default a free one.
    """

    def __init__(self, folder: Path, password: str, port: int = 0) -> None:
        super().__init__("PostgreSQL", folder.parent / "postgres.log", port)
        self._folder, self._password = folder.absolute(), password
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    def uri(self, database: str) -> str:
        return f"postgresql://mlflow:{self._password}@{HOST}:{self.port}/{database}"

    def is_up(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.uri("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> None:
        """Start, and return when it answers; the cluster is made if there is none."""
        if not self._folder.exists():
            self._make()
        # It may lose what it wrote last if the whole machine stops, and is quick in return.
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self._start([_binary("postgres"), "-D", str(self._folder), *options], cwd="/", **self._as)

    def make_database(self, name: str) -> None:
        """An empty database, if there is none of this name."""
        import psycopg

        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                connection.execute(f'create database "{name}"')

    def stop(self) -> None:
        """End, whoever is connected."""
        self._end(signal.SIGINT)

    def _make(self) -> None:
        self._folder.mkdir(parents=True, mode=0o700)
        password = self._folder.parent / "postgres.password"
        password.write_text(self._password)
        if self._as:
            for path in (self._folder, password):
                shutil.chown(path, **self._as)
        flags = ["--username=mlflow", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        command = [_binary("initdb"), "-D", str(self._folder), *flags, "--no-sync"]
        made = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._as)
        password.unlink()
        if made.returncode:
            shutil.rmtree(self._folder)
            who = f" as the user {self._as['user']}" if self._as else ""
            why = (made.stderr.strip() or "initdb failed").splitlines()[-1]
            raise SweepError(f"PostgreSQL cannot make {self._folder}{who} ({why}): name another folder with --folder")


class MlflowServer(Service):
    """MLflow's server.

    Args:
        folder: for its log and settings.
        store: address of its database.
        artifacts: where it keeps artifacts.
        port: to listen on; by default a free one.
        environment: what it needs besides.
    """

    def __init__(
        self, folder: Path, store: str, artifacts: str, port: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("MLflow's server", folder / "mlflow.log", port)
        self._settings = folder / "mlflow.ini"
        self._flags: list[str] = []
        self._environment = {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(environment or {}),
        }

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask_for_password(self, store: str, password: str) -> None:
        """Let nobody in but USER with this password, and whom that user makes.

        Args:
            store: database of users.
        """
        lines = [f"database_uri = {store}", f"admin_username = {USER}", f"admin_password = {password}"]
        lines += [
            "default_permission = READ",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        ]
        _write_private(self._settings, "\n".join(["[mlflow]", *lines, ""]))
        self._flags = ["--app-name", "basic-auth"]
        self._environment["MLFLOW_AUTH_CONFIG_PATH"] = str(self._settings)
        self._environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = password

    def is_up(self) -> bool:
        return is_healthy(HOST, self.port)

    def start(self) -> None:
        """Start, and return when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1"]
        self._start([*command, *self._flags], env=os.environ | self._environment)

    def stop(self) -> None:
        """End at once, as a machine that fails does."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Services:
    """PostgreSQL, S3 and MLflow's server.

    Args:
        folder: of their own, kept from one time to the next; every user must be able to reach it when this one is root.
        mlflow_port: to listen on; by default a free one.
        postgres_port: likewise.
        s3_port: likewise.
    """

    def __init__(self, folder: Path, mlflow_port: int = 0, postgres_port: int = 0, s3_port: int = 0) -> None:
        self.folder = folder.absolute()
        self.password = _kept_password(self.folder)
        self.s3 = S3Server(port=s3_port or free_port())
        self.postgres = Postgres(self.folder / "postgres", self.password, postgres_port)
        store, artifacts = self.postgres.uri("mlflow"), self.s3.uri("artifacts")
        self.mlflow = MlflowServer(self.folder, store, artifacts, mlflow_port, self.s3.environment())
        self.mlflow.ask_for_password(self.postgres.uri("users"), self.password)

    def environment(self) -> dict[str, str]:
        """What a run needs to use them."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow.uri,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            **self.s3.environment(),
        }

    def start(self) -> None:
        """Start all, and return when they answer."""
        self.postgres.start()
        for database in ("mlflow", "users"):
            self.postgres.make_database(database)
        self.s3.start()
        self.mlflow.start()

    def stop(self) -> None:
        """End all."""
        for part in (self.mlflow, self.postgres, self.s3):
            part.stop()

    def keep_objects(self) -> None:
        """Copy what is in S3 into the folder."""
        kept, new = self.folder / "s3", self.folder / "s3.new"
        client, keys = self.s3.client(), self.s3.keys()
        for key in keys:
            (new / key).parent.mkdir(parents=True, exist_ok=True)
            client.download_file(self.s3.bucket, key, str(new / key))
        shutil.rmtree(kept, ignore_errors=True)
        if keys:
            new.rename(kept)

    def bring_objects(self) -> None:
        """Put back into S3 what was kept."""
        kept, client = self.folder / "s3", self.s3.client()
        for path in filter(Path.is_file, kept.rglob("*")):
            client.upload_file(str(path), self.s3.bucket, path.relative_to(kept).as_posix())

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def services_for_a_while() -> Iterator[Services]:
    """Services in a temporary folder that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="services-") as folder:
        Path(folder).chmod(0o755)
        with Services(Path(folder)) as services:
            yield services


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are; Debian keeps them out of PATH. None where it is not installed."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(versions, key=lambda path: int(path.parent.name), default=None)


def _binary(name: str) -> str:
    folder = postgres_folder()
    if folder is None:
        raise SweepError("PostgreSQL is not installed: apt-get install postgresql")
    return str(folder / name)


def _kept_password(folder: Path) -> str:
    """The services' password, which stays the same for as long as the folder does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "password"
    if not path.exists():
        _write_private(path, secrets.token_hex(16))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _wait(services: Services) -> None:
    while True:
        for part in (services.postgres, services.mlflow):
            if not part.runs:
                raise SweepError(f"{part.name} ended by itself: {part.last_words()}")
        time.sleep(1)


@click.command()
@click.option("--folder", default=Path(".services"), type=click.Path(path_type=Path), show_default=True, help="Data.")
@click.option("--fresh", is_flag=True, help="Remove what is there first.")
@click.option("--mlflow-port", default=0, help="By default a free one.")
@click.option("--postgres-port", default=0, help="By default a free one.")
@click.option("--s3-port", default=0, help="By default a free one.")
def main(folder: Path, fresh: bool, **ports: int) -> None:
    """Run PostgreSQL, S3 and MLflow's server with both behind it, on loopback, until Ctrl-C."""
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.default_int_handler)
    try:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        echo("starting PostgreSQL, S3 and MLflow's server …")
        with Services(folder, **ports) as services:
            services.bring_objects()
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in services.environment().items()]
            exports = "".join(lines)
            _write_private(services.folder / "env", exports)
            echo(f"\n{exports}")
            echo(f"The same lines are in {folder}/env. In another terminal:\n")
            echo(f"  . {folder}/env; erasure-sweep run --store {services.s3.uri('shards')}\n")
            echo(f"MLflow's pages are at {services.mlflow.uri} (the user and password above). Ctrl-C ends all.")
            try:
                _wait(services)
            finally:
                services.keep_objects()
    except KeyboardInterrupt:
        echo("ended")
    except SweepError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
