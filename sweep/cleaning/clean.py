"""Removing what runs left: finished shards of OUTs and of shared stores, staged files. Never what a run works with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from erasure_sweep.sweep.cleaning.finished_shards import removable_in, removable_of
from erasure_sweep.sweep.cleaning.removable import CleaningRequest, Removable
from erasure_sweep.sweep.cleaning.staged_files import StagedFiles
from erasure_sweep.sweep.run import staging_folder
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import InUseError
from erasure_sweep.sweep.terminal.aligned_text import aligned_lines
from erasure_sweep.sweep.terminal.printing import echo
from erasure_sweep.sweep.terminal.progress import count
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.printed_commands import quoted


def clean(
    outs: Sequence[Path],
    stores: Sequence[str],
    staged: bool,
    names: Sequence[str],
    older_than: timedelta | None,
    staging: str | None,
    dry_run: bool,
) -> None:
    """Remove what is named, and print what that was.

    Args:
        outs: folders of runs, whose own finished shards are removed; their tables stay.
        stores: folders or URIs that were given to runs as ``--store``; sweeps in them are removed.
        staged: remove staged weights and token arrays, and what was left half-made beside them.
        names: only sweeps, models and corpora of these names.
        older_than: only what was not used for so long.
        staging: the staging folder; by default the user's own.
        dry_run: only print it.

    Raises:
        UsageError: nothing is named, or everything by accident.
        SweepError: something could not be removed.
    """
    _refuse_everything(outs, stores, staged, names, older_than)
    folders = [RunFolder.found(out) for out in outs]
    found = list(_found(folders, stores, staging_folder(staging) if staged else None))
    wanted = CleaningRequest(frozenset(names), older_than)
    chosen = [each for each in found if wanted.means(each)]
    failures: list[str] = []
    came_to = [_outcome(each, dry_run, failures) for each in chosen]
    echo("\n".join([*_table(chosen, came_to), *_unknown(names, found)]))
    if failures:
        raise SweepError(f"{len(failures)} of {len(chosen)} could not be removed, the first: {failures[0]}")


def _refuse_everything(
    outs: Sequence[Path], stores: Sequence[str], staged: bool, names: Sequence[str], older_than: timedelta | None
) -> None:
    if not (outs or stores or staged):
        raise UsageError(
            "nothing is named: give folders of runs (OUT), whose own finished shards are removed, or --store URI or "
            "--staged with --name NAME or --older-than 30d; --dry-run shows what would be removed"
        )
    if (stores or staged) and not names and older_than is None:
        what = "--store" if stores else "--staged"
        raise UsageError(f"{what} needs --name NAME or --older-than 30d; --older-than 0d takes everything")


def _found(folders: Iterable[RunFolder], stores: Iterable[str], staging: Path | None) -> Iterator[Removable]:
    """Everything that could be meant."""
    for folder in folders:
        own = removable_of(folder)
        if own:
            yield own
        else:
            echo(_without_own(folder))
    for store in stores:
        yield from removable_in(store)
    if staging:
        files = StagedFiles(staging)
        yield from files.removable()
        if left := files.left_alone:
            others = f" and {len(left) - 1} more, which are" if len(left) > 1 else ", which is"
            echo(f"left alone: {left[0]}{others} not known to be erasure-sweep's")


def _without_own(folder: RunFolder) -> str:
    manifest = folder.read_manifest()
    store = manifest.config.store if manifest else None
    return f"{folder.out} has no finished shards of its own" + (
        f": they are in {store} ({quoted('--store', store)})" if store else ""
    )


def _outcome(found: Removable, dry_run: bool, failures: list[str]) -> str:
    """Remove something that nobody works with, and say what came of it."""
    if found.in_use:
        return f"in use by {found.in_use}"
    if dry_run:
        return "would be removed"
    try:
        found.remove()
    except InUseError as error:
        return f"in use: {error}"
    except (SweepError, OSError) as error:
        failures.append(str(error))
        return "could not be removed"
    return "removed"


def _table(chosen: Sequence[Removable], came_to: Sequence[str]) -> list[str]:
    """A line for each thing, and one for all."""
    if not chosen:
        return ["nothing to remove"]
    rows = [(each.what, _size(each.size), _when(each.used), end) for each, end in zip(chosen, came_to, strict=True)]
    done = [each.size for each, end in zip(chosen, came_to, strict=True) if end in ("removed", "would be removed")]
    word = "would be removed" if "would be removed" in came_to else "removed"
    return [
        *aligned_lines([("what", "size", "last used", ""), *rows]),
        f"{count(len(done), 'thing')} {word}, {_size(sum(done))}",
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _when(used: float | None) -> str:
    """A time as the user's clock shows it."""
    return datetime.fromtimestamp(used, UTC).astimezone().strftime("%Y-%m-%d %H:%M") if used else "?"


def _unknown(names: Iterable[str], found: Iterable[Removable]) -> list[str]:
    known = {name for each in found for name in each.names}
    return [f"nothing here is called {name}" for name in names if name not in known]
