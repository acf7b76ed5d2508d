"""The runs of this machine, as their folders know them: how far each is, who works on it, and how to stop it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import DriverProcess
from erasure_sweep.sweep.terminal.aligned_text import aligned_lines
from erasure_sweep.sweep.terminal.printing import echo
from erasure_sweep.sweep.terminal.progress import count
from erasure_sweep.sweep.tracking.store_address import ui_command
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.manifest import ManifestConfig, ManifestEntry

RUNS = Path("runs")
STOP_S = 30.0
"""How long a run that is told to stop is waited for."""
_LOOK_EVERY_S = 0.1


def status(out: Path | None) -> None:
    """Print how far the run of a folder is, or a line for each below ``runs/``.

    Raises:
        UsageError: the folder holds no run, or its manifest is damaged.
    """
    lines = _described(RunFolder.found(out)) if out else _listed(RUNS)
    echo("\n".join(lines))


def stop(out: Path) -> None:
    """Stop the run that works in a folder, as Ctrl-C does, and print how it ended.

    Raises:
        UsageError: the folder holds no run.
        SweepError: it works on another machine or is another user's, or does not end within ``STOP_S``.
    """
    folder = RunFolder.found(out)
    folder.refuse_newer()
    driver = folder.working_driver()
    if driver is None:
        echo(f"no run is working in {out}")
        return
    if not driver.is_here:
        raise SweepError(f"the run in {out} is working on {driver.host} (process {driver.pid}): stop it there")
    _end(driver, folder)
    echo(
        f"the run in {out} ({driver.where}) has ended: {_came_to(folder)}; the same `erasure-sweep run` goes on from there"
    )


def _came_to(folder: RunFolder) -> str:
    """How far the models are; the run has ended whether its manifest can be read or not."""
    try:
        manifest = folder.read_manifest()
    except SweepError as error:
        return str(error)
    states = Counter(entry.state for entry in manifest.models) if manifest else Counter()
    return ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "nothing was measured yet"


def _end(driver: DriverProcess, folder: RunFolder) -> None:
    """Tell a process of this machine to end, and wait for that."""
    try:
        os.kill(driver.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise SweepError(f"process {driver.pid}, which works in {folder.out}, is another user's: ask them") from error
    deadline = time.monotonic() + STOP_S
    while driver.is_alive:
        if time.monotonic() > deadline:
            raise SweepError(
                f"process {driver.pid} was told to stop and still works after {STOP_S:.0f} s: see {folder.log}, or end it "
                f"by kill -9 {driver.pid}; what is stored is kept"
            )
        time.sleep(_LOOK_EVERY_S)


def _described(folder: RunFolder) -> list[str]:
    """What is known of one run."""
    driver, manifest = folder.working_driver(), folder.read_manifest()
    if manifest is None:
        return [f"{folder.out}: {f'preparing ({driver.where})' if driver else 'no run has measured anything'}"]
    rows = [(entry.name, _state(entry, driver), _reached(entry)) for entry in manifest.models]
    reasons = [f"  {entry.reason}" for entry in manifest.models if entry.state == "FAILED" and entry.reason]
    head = f"{manifest.name} in {folder.out}: {_who(folder, driver)}"
    return [head, *(f"  {line}" for line in aligned_lines(rows)), *reasons, f"  {_tracking(manifest.config)}"]


def _who(folder: RunFolder, driver: DriverProcess | None) -> str:
    if driver:
        return f"{driver.where} is working on it"
    left = folder.noted_driver()
    if left:
        return f"nobody is working on it; {left.where} ended without noting that, the same `erasure-sweep run` goes on"
    return "nobody is working on it"


def _state(entry: ManifestEntry, driver: DriverProcess | None) -> str:
    """A model's state; one that nobody measures any more is not measuring."""
    return "INTERRUPTED" if entry.state == "MEASURING" and driver is None else entry.state


def _reached(entry: ManifestEntry) -> str:
    """How far a model is: the stages that are measured, and the shards of the one that is not."""
    stages = ", ".join(entry.stages)
    if entry.is_finished or entry.shards is None:
        return stages
    shards = f"{entry.stage}: {entry.shards_done} of {count(entry.shards, 'shard')}"
    return f"{shards} (behind it {stages})" if stages else shards


def _tracking(config: ManifestConfig) -> str:
    return f"MLflow: {ui_command(config.experiment or str(config.name), config.tracking_uri)}"


def _listed(runs: Path) -> list[str]:
    """A line for each run of a folder."""
    found = sorted({path.parent for name in ("manifest.json", ".driver.json") for path in runs.glob(f"*/{name}")})
    return aligned_lines([_in_short(RunFolder.found(out)) for out in found]) or [f"no runs below {runs}/"]


def _in_short(folder: RunFolder) -> tuple[str, str, str]:
    """Folder, who works there, and how many models are in which state."""
    driver = folder.working_driver()
    who = driver.where if driver else "nobody is working on it"
    try:
        manifest = folder.read_manifest()
    except SweepError as error:
        return str(folder.out), who, str(error)
    if manifest is None:
        return str(folder.out), who, "preparing" if driver else "nothing was measured"
    states = Counter(_state(entry, driver) for entry in manifest.models)
    return str(folder.out), who, ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
