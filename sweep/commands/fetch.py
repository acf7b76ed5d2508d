"""``erasure-sweep fetch``: stage what a sweep needs, so that it runs without a network."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, debug_option, load

if TYPE_CHECKING:
    from erasure_sweep.sweep.terminal.printed_table import Kind

_UNUSED_KEYS = (
    "device",
    "workers",
    "max_workers",
    "batch",
    "ray_address",
    "out",
    "store",
    "tracking_uri",
    "experiment",
)


@click.command(cls=ConfigCommand, left_out=_UNUSED_KEYS)
@click.argument("source", metavar="PRESET|CONFIG.yaml")
@click.option("--refresh", is_flag=True, help="Ask the hub for what is staged as well.")
@debug_option
def fetch(source: str, refresh: bool, debug: bool, **flags: Any) -> None:
    """Stage everything a sweep needs, so that it runs without a network."""
    from rich.markup import escape

    from erasure_sweep.sweep.helper.process import HelperProcess
    from erasure_sweep.sweep.plan import n_rows
    from erasure_sweep.sweep.run import Run
    from erasure_sweep.sweep.staging import ModelStaging
    from erasure_sweep.sweep.terminal.printed_table import printed_table
    from erasure_sweep.sweep.terminal.printing import console, print_line
    from erasure_sweep.sweep.terminal.progress import reporter
    from erasure_sweep.workers.printed_commands import quoted

    run = Run.of(load(source, flags))
    with closing(reporter(console)) as progress, closing(HelperProcess()) as background:
        models = ModelStaging(run, background, refresh).finish(progress)
    columns: dict[str, Kind] = {
        "model": "text",
        "weights": "number",
        "corpus": "text",
        "prompts": "number",
        "tokens each": "number",
    }
    table = printed_table("Staged", columns)
    for model in models:
        counts = (str(n_rows(model)), str(model.seq_len))
        table.add_row(escape(model.name), f"{model.weights_bytes / 1e6:,.1f} MB", escape(model.corpus), *counts)
    console.print(table)
    print_line(
        f"Staged in {run.staging}: `erasure-sweep run` with the same config and {quoted('--staging', run.staging)} (or "
        "ERASURE_SWEEP_STAGING) needs no network"
    )
