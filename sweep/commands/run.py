"""``erasure-sweep run``: measure a sweep, with its progress, and show what came of it; or say what it would take."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from erasure_sweep.sweep.commands.options import ConfigCommand, debug_option, fresh_option, load

if TYPE_CHECKING:
    from erasure_sweep.sweep.config import SweepConfig
    from erasure_sweep.sweep.run_folder import RunFolder


@click.command(cls=ConfigCommand)
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@fresh_option
@click.option("--dry-run", is_flag=True, help="Print models, shards, estimated time, memory and disk; measure nothing.")
@debug_option
def run(source: str, fresh: bool, dry_run: bool, debug: bool, **flags: Any) -> None:
    """Measure a sweep. Without arguments: the bundled models, offline."""
    measure(load(source, flags), fresh=fresh, dry_run=dry_run)


def measure(config: SweepConfig, *, fresh: bool, dry_run: bool) -> None:
    """Measure a sweep and show what came of it.

    Raises:
        SweepError: something was not measured or not logged.
    """
    from erasure_sweep.sweep.commands.run_summary import print_outcome
    from erasure_sweep.sweep.driver import SweepDriver
    from erasure_sweep.sweep.run import Run
    from erasure_sweep.sweep.terminal.printing import console
    from erasure_sweep.sweep.terminal.progress import reporter
    from erasure_sweep.workers.errors import SweepError

    if dry_run:
        _print_estimates(config)
        return
    progress = reporter(console)
    this_run = Run.of(config, fresh)
    try:
        driver = SweepDriver(this_run, progress)  # a store that is none is refused before OUT is made
        with _logging_to(this_run.folder):
            outcome = driver.measure()
    finally:
        progress.close()
    print_outcome(config, outcome)
    if outcome.problems:
        raise SweepError(outcome.problems[-1])


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves short: what fails then is said once, by the run itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging names it
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _logging_to(folder: RunFolder) -> Iterator[None]:
    """Keep details, with the ids of shards, in OUT/run.log."""
    from erasure_sweep.sweep.terminal.printing import PrintableFormatter
    from erasure_sweep.workers.storage.whole_file import write_error

    try:
        folder.out.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(folder.log, encoding="utf-8")
    except OSError as error:
        raise write_error(folder.out, error) from error
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("erasure_sweep")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    except BaseException:
        logger.exception("the run ended before its time")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _print_estimates(config: SweepConfig) -> None:
    from erasure_sweep.sweep.estimate import estimate
    from erasure_sweep.sweep.terminal.printed_table import printed_table
    from erasure_sweep.sweep.terminal.printing import console
    from erasure_sweep.sweep.terminal.progress import duration, reporter

    numbers = ("shards of scan", "of verify", "writers in a shard", "time on one core", "memory of a worker")
    table = printed_table(
        f"What `run` would measure ({config.prompts} prompts × {'' if config.pack else 'up to '}{config.seq_len} tokens)",
        {"model": "text", **dict.fromkeys((*numbers, "store on disk"), "number")},
    )
    with closing(reporter(console)) as progress:
        estimates = estimate(config, progress)
    for model in estimates:
        counts = map(str, (model.shards, model.verify_shards, model.writers_per_shard))
        memory, disk = f"{model.memory_bytes / 2**30:.1f} GiB", f"{model.store_bytes / 2**20:.0f} MiB"
        table.add_row(model.model, *counts, duration(model.core_seconds), memory, disk)
    console.print(table)
