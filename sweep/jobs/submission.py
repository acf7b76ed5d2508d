"""A sweep as a job on a Ray cluster: submit it, follow what it prints, look at it, stop it.

The job is ``erasure-sweep run`` on the cluster's head, which goes on when whoever submitted it goes away. One sweep is one
job: its id follows from what it does, so that submitting what runs already follows it, and submitting what ended goes on
from there. A cluster keeps one log for all jobs of an id; a word in the job's command tells where the last one begins.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import closing
from datetime import datetime

import click

from erasure_sweep.dashboards.wording import listed
from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.execution.ray.jobs import JobState, RayJobs, find_address
from erasure_sweep.sweep.jobs.job_files import JobFiles, job_files
from erasure_sweep.sweep.terminal.printing import echo
from erasure_sweep.sweep.terminal.progress import count, duration
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.printed_commands import command
from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder
from erasure_sweep.workers.version import VERSION

STOP_S = 30
"""How long a job may take to note its end once it is told to stop, before the cluster kills it; Ray's own is 3 s."""
GONE_S = 60.0
"""How long a cluster may not answer before following a job is given up."""
RETRY_S = 2.0
LAST_LINES = 10
_MOST_LEFT = 10

_INTERRUPTED = 130
_NOT_FOUND = 127
_NAME, _ATTEMPT = "erasure-sweep", "attempt"
"""Keys of a job's metadata: the sweep's name, by which jobs of this project are known, and the word in its command."""


class JobError(SweepError):
    """A job that did not end well, with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def submit(config: SweepConfig, address: str | None, *, fresh: bool, wait: bool) -> None:
    """Have a cluster measure a sweep, and print what it prints until it is through.

    Args:
        config: the sweep; what it names by relative paths travels.
        address: of the cluster's dashboard; by default as the environment has it.
        fresh: measure everything anew.
        wait: follow the job.

    Raises:
        UsageError: the config cannot be sent, or ``fresh`` of a job that runs.
        JobError: the job failed or was stopped; its exit code.
        SweepError: the cluster does not answer or refuses.
    """
    where = find_address(address)
    files = job_files(config)
    if files.left:
        echo(f"stays here, since no model is read from it: {listed(files.left, _MOST_LEFT)}")
    jobs = RayJobs(where)
    started = _start(jobs, files, fresh)
    if not started and fresh:
        raise UsageError(f"job {files.id} is running already: stop it first, or submit without --fresh to follow it")
    how = f"submitted {files.id} to {jobs.shown}" if started else f"{files.id} is running already at {jobs.shown}"
    echo(f"{how}: " + ("following it, Ctrl-C leaves it running" if wait else _what_next(files.id, jobs.shown)))
    if not wait:
        return
    try:
        job = _follow(jobs, files.id)
    except KeyboardInterrupt as error:
        raise JobError(f"job {files.id} goes on: {_what_next(files.id, jobs.shown)}", _INTERRUPTED) from error
    _raise_how_it_ended(job, _printed(jobs, job))


def _what_next(job: str, shown: str) -> str:
    return f"`{command('status', job, '--address', shown)}` shows it, `stop` ends it, the same `submit` follows it"


def _start(jobs: RayJobs, files: JobFiles, fresh: bool) -> bool:
    """Start the job unless it runs. Who comes second, of two at the same time, finds it running."""
    for _ in range(3):
        found = jobs.find(files.id)
        if found is not None and not found.is_over:
            return False
        if found is not None:
            jobs.delete(files.id)
        if _send(jobs, files, fresh):
            return True
    raise SweepError(
        f"job {files.id} at {jobs.shown} ends as often as it begins: look at {_what_next(files.id, jobs.shown)}"
    )


def _send(jobs: RayJobs, files: JobFiles, fresh: bool) -> bool:
    attempt = secrets.token_hex(8)
    metadata = {
        _NAME: files.config.name,
        _ATTEMPT: attempt,
        "out": files.config.out or "",
        "version": VERSION,
    }
    with closing(TemporaryFolder()) as folder:
        package = folder.path / "job.zip"
        files.write(package)
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        return jobs.submit(files.id, files.entrypoint(fresh, attempt), package, metadata, variables)


class _Log:
    """What a job printed, whatever connections brought it; each brings everything, from the beginning."""

    def __init__(self, attempt: str) -> None:
        self._attempt = attempt
        self._seen = 0
        self._position = 0
        self._unread = ""
        self._begun = not attempt

    def again(self) -> None:
        """Another connection begins."""
        self._position = 0

    def take(self, text: str) -> str:
        """What is new in a piece, and of this job."""
        new = text[max(0, self._seen - self._position) :]
        self._position += len(text)
        self._seen = max(self._seen, self._position)
        if self._begun:
            return new
        self._unread += new
        _, attempt, after = self._unread.partition(self._attempt)
        _, end, printed = after.partition("\n")
        if not attempt or not end:
            return ""
        self._begun, self._unread = True, ""
        return printed


def _follow(jobs: RayJobs, job: str) -> JobState:
    """Print what a job prints until it is over. A lost connection is made anew."""
    state = _found(jobs, job)
    log = _Log(state.metadata.get(_ATTEMPT, ""))
    failing: float | None = None
    while True:
        log.again()
        try:
            asyncio.run(_print_tail(jobs, job, log))
            state = _found(jobs, job)
            failing = None
            if state.is_over:
                log.again()
                echo(click.unstyle(log.take(jobs.log(job))), end=False)
                return state
        except SweepError:
            failing = failing or time.monotonic()
            if time.monotonic() - failing > GONE_S:
                raise
        time.sleep(RETRY_S)


async def _print_tail(jobs: RayJobs, job: str, log: _Log) -> None:
    async for piece in jobs.tail(job):
        echo(click.unstyle(log.take(piece)), end=False)


def _found(jobs: RayJobs, job: str) -> JobState:
    state = jobs.find(job)
    if state is None:
        raise UsageError(
            f"the cluster at {jobs.shown} knows no job {job}: `{command('status', '--address', jobs.shown)}` lists them"
        )
    return state


def _printed(jobs: RayJobs, job: JobState) -> list[str]:
    """Lines that a job printed."""
    return _Log(job.metadata.get(_ATTEMPT, "")).take(jobs.log(job.id)).splitlines()


def _raise_how_it_ended(job: JobState, printed: list[str]) -> None:
    if job.state == "STOPPED":
        raise JobError(f"job {job.id} was stopped: the same `submit` goes on from there", _INTERRUPTED)
    if job.state == "FAILED":
        raise JobError(f"job {job.id} failed: {_why(job, printed)}", job.exit_code or SweepError.exit_code)


def _why(job: JobState, printed: list[str]) -> str:
    if job.exit_code == _NOT_FOUND:
        return (
            "the cluster's head has no erasure-sweep on its PATH: install it there, in the same version "
            f"({VERSION}), as ray_cluster.yaml does, and on every other machine of the cluster"
        )
    if job.exit_code is not None:
        said = next((line for line in reversed(printed) if line.startswith("erasure-sweep: ")), "")
        return said.removeprefix("erasure-sweep: ") or f"its command ended with exit code {job.exit_code}"
    lines = [line for line in job.message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "Ray does not say why"


def status(job: str | None, address: str | None) -> None:
    """Print how a job stands and the last that it printed, or a line for every job of this project.

    Raises:
        UsageError: no such job.
        SweepError: the cluster does not answer.
    """
    jobs = _jobs(job, address)
    if job is not None:
        _show(jobs, _found(jobs, job))
        return
    listed = [each for each in jobs.list() if _NAME in each.metadata]
    if not listed:
        echo(f"no sweep was submitted to {jobs.shown}; `erasure-sweep submit` does it")
    width = max((len(each.id) for each in listed), default=0)
    for each in listed:
        echo(f"{each.id:<{width}}  {_how_it_stands(each)}")


def _jobs(name: str | None, address: str | None) -> RayJobs:
    try:
        where = find_address(address)
    except UsageError as error:
        raise UsageError(f"{name} is no folder of a run; if it is a job: {error}") from error
    return RayJobs(where)


def _show(jobs: RayJobs, job: JobState) -> None:
    lines = _printed(jobs, job)
    echo(f"{job.id}  {_how_it_stands(job)}")
    if out := job.metadata.get("out"):
        echo(f"sweep {job.metadata[_NAME]}, in {out} on the cluster's head")
    if job.state == "FAILED":
        echo(f"failed: {_why(job, lines)}")
    if lines:
        echo(f"the last of {count(len(lines), 'line')}:" if len(lines) > LAST_LINES else "what it printed:")
    for line in lines[-LAST_LINES:]:
        echo(f"  {line}")


def _how_it_stands(job: JobState) -> str:
    """State, since when, and how long it took or takes."""
    if job.started is None:
        return job.state
    taken = duration(((job.ended or datetime.now().astimezone()) - job.started).total_seconds())
    how_long = f"took {taken}" if job.is_over else f"for {taken}"
    code = f" with exit code {job.exit_code}" if job.exit_code else ""
    return f"{job.state}{code}, begun {job.started:%Y-%m-%d %H:%M}, {how_long}"


def stop(job: str, address: str | None) -> None:
    """End a job, and say how it ended once it has.

    Raises:
        UsageError: no such job.
        SweepError: the cluster does not answer, or the job does not end.
    """
    jobs = _jobs(job, address)
    state = _found(jobs, job)
    if state.is_over:
        echo(f"{job} is not running: {_how_it_stands(state)}")
        return
    jobs.stop(job)
    deadline = time.monotonic() + STOP_S + GONE_S
    while not (state := _found(jobs, job)).is_over:
        if time.monotonic() > deadline:
            raise SweepError(f"job {job} was told to stop and has not ended: look at the cluster (`ray status`)")
        time.sleep(RETRY_S / 4)
    echo(f"{job}  {_how_it_stands(state)}; what it measured is kept, the same `submit` goes on from there")
