"""``erasure-sweep config``: the resolved config, or the reference of its keys."""

from __future__ import annotations

from typing import Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, load
from erasure_sweep.sweep.config import SweepConfig


@click.command(cls=ConfigCommand)
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@click.option("--reference", is_flag=True, help="Print the reference of keys instead.")
def config(source: str, reference: bool, **flags: Any) -> None:
    """Print the resolved config as YAML, or the reference of its keys."""
    import yaml

    from erasure_sweep.sweep.terminal.printing import echo

    if reference:
        echo(reference_of_keys())
    else:
        echo(yaml.safe_dump(load(source, flags).model_dump(exclude_none=True), sort_keys=False).rstrip())


def reference_of_keys() -> str:
    """The reference of keys, in Markdown: name, type, default and meaning of each."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in SweepConfig.model_fields.items():
        default = "required" if field.is_required() else repr(field.default)
        lines.append(f"| `{name}` | `{default}` | {' '.join((field.description or '').split())} |")
    return "\n".join(lines)
