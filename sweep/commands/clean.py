"""``erasure-sweep clean``: remove finished shards and staged files that nobody needs any more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from erasure_sweep.sweep.commands.options import Age, debug_option, staging_option


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]...")
@click.option("--store", "stores", multiple=True, metavar="DIR|URI", help="A --store, all its sweeps; again for more.")
@click.option("--staged", is_flag=True, help="Staged weights and token arrays.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only of this sweep, model or corpus.")
@click.option("--older-than", type=Age(), help="Only what was last used so long ago.")
@staging_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@debug_option
def clean(
    folders: tuple[Path, ...],
    stores: tuple[str, ...],
    staged: bool,
    names: tuple[str, ...],
    older_than: timedelta | None,
    staging: str | None,
    dry_run: bool,
    debug: bool,
) -> None:
    """Remove finished shards and staged files that nobody needs any more; tables and pages stay."""
    from erasure_sweep.sweep.cleaning import clean as cleaning

    cleaning.clean(list(folders), list(stores), staged, list(names), older_than, staging, dry_run)
