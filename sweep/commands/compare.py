"""``erasure-sweep compare``: the models of several sweeps side by side on one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from erasure_sweep.sweep.commands.options import tracking_option


def finished_sweeps(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: what names the finished sweeps that a command reads, as ``finished_folders`` takes it."""
    for option in (
        tracking_option,
        click.option(
            "--experiment", "experiments", multiple=True, metavar="E", help="An MLflow experiment; again for more."
        ),
        click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]..."),
    ):
        command = option(command)
    return command


@contextmanager
def finished_folders(
    folders: Sequence[Path], experiments: Sequence[str], tracking_uri: str | None
) -> Iterator[list[Path]]:
    """These folders, and those of the experiments' sweeps for as long as they are needed.

    Raises:
        UsageError: nothing is named.
    """
    from erasure_sweep.sweep.terminal.printing import print_line
    from erasure_sweep.sweep.tracking.downloads import download_experiment
    from erasure_sweep.sweep.tracking.store_address import store_uri
    from erasure_sweep.workers.errors import UsageError
    from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder

    if not folders and not experiments:
        raise UsageError("name folders of finished sweeps (runs/demo) or MLflow experiments (--experiment demo)")
    with closing(TemporaryFolder()) as temporary:
        downloaded = [
            folder
            for i, name in enumerate(dict.fromkeys(experiments))
            for folder in download_experiment(store_uri(tracking_uri), name, temporary.path / str(i), print_line)
        ]
        yield [*folders, *downloaded]


@click.command()
@finished_sweeps
@click.option("--to", default=Path("compare.html"), type=click.Path(path_type=Path), help="The page to write.")
def compare(folders: tuple[Path, ...], experiments: tuple[str, ...], tracking_uri: str | None, to: Path) -> None:
    """Put the models of several sweeps side by side on one page."""
    from erasure_sweep.sweep.finishing.combine_sweeps import compare_folders
    from erasure_sweep.sweep.terminal.printing import print_line

    with finished_folders(folders, experiments, tracking_uri) as all_folders:
        left_out = compare_folders(all_folders, to)
    for line in (*left_out, f"wrote {to}"):
        print_line(line)
