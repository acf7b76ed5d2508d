"""``erasure-sweep replicate``: measure what the paper published, number by number."""

from __future__ import annotations

from typing import Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, debug_option, fresh_option
from erasure_sweep.sweep.commands.run import measure


@click.command(cls=ConfigCommand, left_out=("models", "stage", "writers", "erasers", "ln", "top", "seed"))
@click.option("--model", metavar="NAME|DIR", help="A model in place of gelu-4l.")
@fresh_option
@click.option("--dry-run", is_flag=True, help="Print shards, estimated time, memory and disk; measure nothing.")
@debug_option
def replicate(model: str | None, fresh: bool, dry_run: bool, debug: bool, **flags: Any) -> None:
    """Measure what the paper published, number by number."""
    from erasure_sweep.sweep.replication.replicate import replication_config, write_report
    from erasure_sweep.sweep.replication.report import show
    from erasure_sweep.sweep.terminal.printing import console, print_line

    config = replication_config({**flags, "models": [model] if model else None})
    measure(config, fresh=fresh, dry_run=dry_run)
    if dry_run:
        return
    sections, path = write_report(config)
    console.print()
    show(sections, console)
    print_line(f"{'report':<14} {path}")
