"""Which process works on a sweep: a record of it that other processes read, on this machine and on others.

A process is told apart from earlier ones of its number by the machine's boot and by when it started.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from erasure_sweep.workers.errors import SweepError

_PROC = Path("/proc")
_ENDED = "ZX"  # it only waits for its parent to hear of it, or is about to go


class InUseError(SweepError):
    """Another run works with this."""


class DriverProcess(NamedTuple):
    """A process that runs a sweep."""

    holder: str
    """Drawn at random for each run."""
    host: str
    boot_id: str
    """Of the machine since it was started, with what gives processes their numbers there: containers have their own."""
    pid: int
    pid_started: str
    name: str
    """Of the sweep."""
    sweep_id: str
    out: str
    """Its folder, in full."""

    def __str__(self) -> str:
        return f"{self.where}, {self.out}"

    @property
    def where(self) -> str:
        """Machine and process, for people."""
        return f"{self.host}, process {self.pid}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine since that was started."""
        return (self.host, self.boot_id) == (socket.gethostname(), boot_id())

    @property
    def is_alive(self) -> bool | None:
        """Whether the process still runs; ``None`` where only another machine knows."""
        return started(self.pid) == self.pid_started if self.is_here else None


def this_driver(name: str, sweep_id: str, out: Path, pid: int) -> DriverProcess:
    """The record of a run in process ``pid`` of this machine."""
    return DriverProcess(
        holder=secrets.token_hex(8),
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=pid,
        pid_started=started(pid) or "",
        name=name,
        sweep_id=sweep_id,
        out=str(out.resolve()),
    )


def read_driver(values: Any) -> DriverProcess | None:
    """The record among these values; ``None`` where they hold none."""
    if not isinstance(values, Mapping):
        return None
    found = {key: values.get(key) for key in DriverProcess._fields}
    whole = all(isinstance(value, int if key == "pid" else str) for key, value in found.items())
    return DriverProcess(**found) if whole else None  # type: ignore[arg-type]


def boot_id() -> str:
    """What tells this machine since it was started from itself before, and its containers apart; empty if not known."""
    with suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    return ""


def started(pid: int) -> str | None:
    """When a process of this machine started, in a notation of the machine's own; ``None`` where there is none."""
    if not sys.platform.startswith("linux"):
        return _listed(pid)
    try:
        # Behind the command's name, which stands in brackets and may hold anything: the state, …, the start time.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _ENDED else fields[19]


def has_open(pid: int, path: Path) -> bool:
    """Whether a process of this machine has a file open; of another user's process that cannot be seen, and is believed."""
    try:
        files = psutil.Process(pid).open_files()
        return any(Path(file.path).samefile(path) for file in files)
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, OSError):
        return False


def _listed(pid: int) -> str | None:
    """The same where there is no /proc."""
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    state, _, start = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().partition(" ")
    return start.strip() or None if state and state[0] not in _ENDED else None
