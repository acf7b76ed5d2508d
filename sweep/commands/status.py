"""``erasure-sweep status``: how a run of this machine or a job on a cluster stands."""

from __future__ import annotations

from pathlib import Path

import click

from erasure_sweep.sweep.commands.options import address_option

_LEFT_BY_RUNS = ("manifest.json", ".driver.json", ".store")


@click.command()
@click.argument("name", required=False, metavar="[OUT|JOB]")
@address_option
def status(name: str | None, address: str | None) -> None:
    """Show how a run or a job stands; without a name all runs below runs/, or a cluster's jobs."""
    from erasure_sweep.sweep.jobs import local_runs, submission

    if name is None and address is None:
        local_runs.status(None)
    elif name is not None and names_a_run(name):
        local_runs.status(Path(name))
    else:
        submission.status(name, address)


def names_a_run(name: str) -> bool:
    """Whether a run's folder is meant: a path, or a folder in which a run left something. Any other name is a job's."""
    return "/" in name or any((Path(name) / left).exists() for left in _LEFT_BY_RUNS)
