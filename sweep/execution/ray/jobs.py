"""Ray's jobs behind one door: commands that run on a cluster's head, seen through the HTTP address of its dashboard.

Ray's own client waits for ever where something listens and does not answer, and lets environment variables go before the
address that it is given. Neither is so here, and each of its failures is one line with the way out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from erasure_sweep.workers.credentials import masked, note
from erasure_sweep.workers.errors import SweepError, UsageError

T = TypeVar("T")

CONNECT_S = 5.0
VERSION_S = 10.0
ANSWER_S = 60.0
"""How long one answer may take; the first, which shows whether a dashboard answers at all, is quicker."""
SILENCE_S = 60.0
"""After so long without a line, a connection that brings the log counts as lost; a new one costs little."""
DASHBOARD_PORT = 8265
OLDEST_RAY = (2, 53)
"""As the package requires it."""

_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH unless ~/.ray/auth_token holds the cluster's token"
_NO_DASHBOARD = "give the address of its dashboard, http://HOST:8265 (through `ray dashboard` or an ssh tunnel)"


class JobState(NamedTuple):
    """A job as the cluster knows it."""

    id: str
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    metadata: dict[str, str]
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    """Of its command; ``None`` while it runs, and where it was stopped or never began."""
    message: str
    """Of Ray, on how it stands."""

    @property
    def is_over(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")


def find_address(given: str | None) -> str:
    """Where the dashboard listens: as given, else as RAY_API_SERVER_ADDRESS or RAY_ADDRESS have it.

    Raises:
        UsageError: nothing says it, or it is no such address.
    """
    named = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    if given is None:
        given = next((value for value in named.values() if value.startswith("http")), None)
    if given is None:
        raise UsageError(f"name the cluster with --address (or RAY_API_SERVER_ADDRESS): {_NO_DASHBOARD}")
    address = given if "://" in given else f"http://{given}"
    note(address)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parts.hostname or "") or given == "auto":
        raise UsageError(f"--address {given} is no address of a Ray dashboard: {_NO_DASHBOARD}")
    plain = "://" not in given and not re.search(r":\d+$", given)
    return f"{address}:{DASHBOARD_PORT}" if plain else address.rstrip("/")


class RayJobs:
    """The jobs of one cluster.

    Args:
        address: of the cluster's dashboard, as ``find_address`` gives it.

    Raises:
        SweepError: nothing answers there, it is no Ray dashboard, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        note(address)
        self.shown = masked(address)
        with self._asking():
            self._client = _connect(address)

    def submit(
        self, job: str, entrypoint: str, package: Path, metadata: dict[str, str], variables: dict[str, str]
    ) -> bool:
        """Start a job on the head, unless there is one of this id.

        Args:
            job: its id.
            entrypoint: a shell command.
            package: a .zip, unpacked into the folder in which the command runs.
            metadata: kept with the job, and shown on the dashboard.
            variables: of its environment, shown as well.

        Returns:
            Whether it was started.
        """
        environment = {"working_dir": str(package), "env_vars": variables}
        with self._asking():
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=job, runtime_env=environment, metadata=metadata
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def find(self, job: str) -> JobState | None:
        """The job of this id; ``None`` where the cluster knows none."""
        return self._unless_unknown(lambda: _state_of(self._client.get_job_info(job)))

    def list(self) -> list[JobState]:
        """Every submitted job, the oldest first."""
        with self._asking():
            found = [_state_of(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: (job.started.timestamp() if job.started else 0.0, job.id))

    def delete(self, job: str) -> None:
        """Forget a job that is over; one that is gone already, or began again, is left."""
        with self._asking():
            try:
                self._client.delete_job(job)
            except RuntimeError as error:
                if "does not exist" not in str(error) and "non-terminal" not in str(error):
                    raise

    def stop(self, job: str) -> None:
        """Have a job ended: SIGTERM, and SIGKILL after its RAY_JOB_STOP_WAIT_TIME_S. Does not wait for it."""
        with self._asking():
            self._client.stop_job(job)

    def log(self, job: str) -> str:
        """Everything that a job printed, of earlier jobs of the same id as well."""
        return self._unless_unknown(lambda: str(self._client.get_job_logs(job))) or ""

    async def tail(self, job: str) -> AsyncIterator[str]:
        """What a job printed from the beginning, and what it prints, until it is over or the connection is lost."""
        import aiohttp

        pieces = self._client.tail_job_logs(job)
        try:
            while True:
                yield await asyncio.wait_for(anext(pieces), SILENCE_S)
        except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
            return
        finally:
            await pieces.aclose()

    def _unless_unknown(self, ask: Callable[[], T]) -> T | None:
        with self._asking():
            try:
                return ask()
            except RuntimeError as error:
                if "status code 404" not in str(error):
                    raise
                return None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Whatever fails inside becomes one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except SweepError:
            raise
        except AuthenticationError as error:
            raise SweepError(
                f"the cluster at {self.shown} asks for its token, and was given none or another: {_TOKEN}"
            ) from error
        except (
            OSError,
            ValueError,
            KeyError,
        ) as error:  # requests' errors are OSErrors, or ValueErrors of what it read
            raise SweepError(self._no_dashboard(_reason(error))) from error
        except RuntimeError as error:
            if "Version check returned 404" in str(error):
                raise SweepError(self._no_dashboard("something else does")) from error
            raise SweepError(f"the cluster at {self.shown} refuses: {_last_line(error)}") from error

    def _no_dashboard(self, reason: str) -> str:
        return f"no Ray dashboard answers at {self.shown} ({reason}): see that the cluster runs, and {_NO_DASHBOARD}"


def _connect(address: str) -> Any:
    """Ray's client of this address, whatever the environment says, with limits to its patience."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            answer_s = VERSION_S if endpoint == "/api/version" else ANSWER_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_S, answer_s), **options)

        def server_version(self) -> str:
            return str(self._do_request("GET", "/api/version").json()["ray_version"])

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.ERROR)  # failures reach us as exceptions
    before = os.environ.get(_VARIABLES[0])
    os.environ[_VARIABLES[0]] = address
    try:
        client = Client(address)
    finally:
        os.environ.pop(_VARIABLES[0])
        if before is not None:
            os.environ[_VARIABLES[0]] = before
    _refuse_old(client.server_version(), address)
    return client


def _refuse_old(version: str, shown: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        raise SweepError(
            f"the cluster at {shown} runs Ray {version}, and erasure-sweep needs {oldest} or newer: start it with the "
            "version in constraints.txt"
        )


def _state_of(details: Any) -> JobState:
    return JobState(
        details.submission_id or details.job_id,
        str(details.status.value),
        dict(details.metadata or {}),
        _time(details.start_time),
        _time(details.end_time),
        details.driver_exit_code,
        details.message or "",
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None


def _reason(error: BaseException) -> str:
    """What lies at the bottom of a failed request, in a few words."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _last_line(error)[:200].rstrip(".: ")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
