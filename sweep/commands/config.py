"""``erasure-sweep config``: the resolved config, or the reference of its keys."""

from __future__ import annotations

from typing import Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, load


@click.command(cls=ConfigCommand)
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@click.option("--reference", is_flag=True, help="Print the reference of keys instead.")
def config(source: str, reference: bool, **flags: Any) -> None:
    """Print the resolved config as YAML, or the reference of its keys."""
    import yaml

    from erasure_sweep.sweep.config import reference as reference_page
    from erasure_sweep.sweep.printing import echo

    if reference:
        echo(reference_page())
    else:
        echo(yaml.safe_dump(load(source, flags).model_dump(exclude_none=True), sort_keys=False).rstrip())
