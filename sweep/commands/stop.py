"""``erasure-sweep stop``: end a run of this machine or a job on a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from erasure_sweep.sweep.commands.options import address_option
from erasure_sweep.sweep.commands.status import names_a_run


@click.command()
@click.argument("name", metavar="OUT|JOB")
@address_option
def stop(name: str, address: str | None) -> None:
    """End a run or a job; what it measured is kept."""
    from erasure_sweep.sweep.jobs import local_runs, submission

    if names_a_run(name):
        local_runs.stop(Path(name))
    else:
        submission.stop(name, address)
