"""``erasure-sweep submit``: measure a sweep on a Ray cluster, as a job on its head."""

from __future__ import annotations

from typing import Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, address_option, debug_option, fresh_option, load


@click.command(cls=ConfigCommand, left_out=("ray_address",))
@click.argument("source", metavar="PRESET|CONFIG.yaml")
@address_option
@click.option("--no-wait", is_flag=True, help="Do not follow what it prints.")
@fresh_option
@debug_option
def submit(source: str, address: str | None, no_wait: bool, fresh: bool, debug: bool, **flags: Any) -> None:
    """Measure a sweep on a Ray cluster, as a job on its head."""
    from erasure_sweep.sweep.jobs import submission as jobs

    jobs.submit(load(source, flags), address, fresh=fresh, wait=not no_wait)
