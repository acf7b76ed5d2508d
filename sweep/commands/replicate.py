"""``erasure-sweep replicate``: measure what was published, number by number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, debug_option, fresh_option
from erasure_sweep.sweep.commands.run import measure

SELF_REPAIR = "self-repair"
TAKEN = ("corpus", "prompts", "out", "staging")
"""Flags of the config that self-repair takes."""
PROMPTS = 100


@click.command(cls=ConfigCommand, left_out=("models", "stage", "writers", "erasers", "ln", "top", "seed"))
@click.argument("what", type=click.Choice(["paper", SELF_REPAIR]), default="paper")
@click.option("--model", metavar="NAME|DIR", help="A model in place of gelu-4l; for self-repair in place of gpt2.")
@click.option(
    "--published", metavar="NAME", help="For self-repair: which published model a folder holds (gpt2-small, …)."
)
@fresh_option
@click.option("--dry-run", is_flag=True, help="Print shards, estimated time, memory and disk; measure nothing.")
@debug_option
def replicate(
    what: str, model: str | None, published: str | None, fresh: bool, dry_run: bool, debug: bool, **flags: Any
) -> None:
    """Measure what was published, number by number: the paper's numbers of gelu-4l, or self-repair of heads
    (Rushing and Nanda 2024)."""
    from erasure_sweep.sweep.replication.report import show
    from erasure_sweep.sweep.terminal.printing import console, print_line
    from erasure_sweep.workers.errors import UsageError

    if what == SELF_REPAIR:
        given = [f"--{key.replace('_', '-')}" for key, value in flags.items() if value and key not in TAKEN]
        given += ["--fresh"] * fresh + ["--dry-run"] * dry_run
        if given:
            raise UsageError(f"{SELF_REPAIR} takes --model, --published, --{', --'.join(TAKEN)}, not {given[0]}")
        sections, path = _self_repair(model or "gpt2", published, {key: flags.get(key) for key in TAKEN})
    else:
        from erasure_sweep.sweep.replication.replicate import replication_config, write_report

        if published:
            raise UsageError(f"--published is of {SELF_REPAIR}: the paper's numbers are of gelu-4l")
        config = replication_config({**flags, "models": [model] if model else None})
        measure(config, fresh=fresh, dry_run=dry_run)
        if dry_run:
            return
        sections, path = write_report(config)
        console.print()
    show(sections, console)
    print_line(f"{'report':<14} {path}")


def _self_repair(model: str, published: str | None, flags: dict[str, Any]) -> tuple[Any, Path]:
    from erasure_sweep.sweep.replication.self_repair import Request, replicate_self_repair

    out = Path(flags["out"] or f"runs/{SELF_REPAIR}").expanduser()
    request = Request(model, flags["corpus"] or "own", flags["prompts"] or PROMPTS, out, flags["staging"], published)
    return replicate_self_repair(request, _progress if sys.stderr.isatty() else lambda what, done, total: None)


def _progress(what: str, done: int, total: int) -> None:
    from erasure_sweep.sweep.terminal.printing import echo

    echo(f"\r{what}: {done}/{total} prompts{chr(10) if done == total else ''}", to_stderr=True, end=False)
