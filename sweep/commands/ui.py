"""``erasure-sweep ui``: browse the logged runs in MLflow's UI."""

from __future__ import annotations

import sys

import click

from erasure_sweep.sweep.commands.options import tracking_option


@click.command()
@tracking_option
@click.option("--experiment", default=None, metavar="NAME", help="Open on this experiment.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on loopback.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--no-browser", is_flag=True, help="Open no browser, only say where the pages are.")
def ui(tracking_uri: str | None, experiment: str | None, port: int, host: str, no_browser: bool) -> None:
    """Browse the logged runs in MLflow's UI."""
    from erasure_sweep.sweep.tracking.store_address import store_uri
    from erasure_sweep.sweep.tracking.ui_server import serve

    sys.exit(serve(store_uri(tracking_uri), port, host, experiment, show_browser=not no_browser))
