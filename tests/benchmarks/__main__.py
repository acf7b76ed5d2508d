"""Run the benchmarks: ``python -m tests.benchmarks [--quick] [--only scan]… [--threads 1] [--json build/bench.json]``.

Ratios taken in one run: each subject's table is printed as soon as it is measured, and all are kept as JSON. Nothing passes
or fails; aims stand beside what was found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console

from tests.benchmarks.audit import measure_audit
from tests.benchmarks.large import measure_large
from tests.benchmarks.literal import measure_literal
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.overhead import measure_overhead
from tests.benchmarks.pages import measure_pages
from tests.benchmarks.paths import measure_paths
from tests.benchmarks.positions import measure_positions
from tests.benchmarks.report import machine_info, tables, write_json
from tests.benchmarks.scan import measure_scans
from tests.benchmarks.settings import Settings, full_settings, quick_settings
from tests.benchmarks.shards import measure_shards
from tests.benchmarks.startup import measure_startup
from tests.benchmarks.timing import Row
from tests.benchmarks.verify import measure_verify

SUBJECTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "scan": measure_scans,
    "paths": measure_paths,
    "literal": measure_literal,
    "verify": measure_verify,
    "audit": measure_audit,
    "memory": measure_memory,
    "overhead": measure_overhead,
    "shards": measure_shards,
    "positions": measure_positions,
    "pages": measure_pages,
    "startup": measure_startup,
    "large": measure_large,
}


@click.command()
@click.option("--quick", is_flag=True, help="Next to nothing of everything, to see that it runs.")
@click.option("--only", multiple=True, type=click.Choice(list(SUBJECTS)), help="A subject; again for more.")
@click.option("--threads", default=1, show_default=True, help="Torch threads, the same for all.")
@click.option("--rounds", default=5, show_default=True, help="Rounds in which scans are timed.")
@click.option("--json", "path", default=Path("build/bench.json"), type=click.Path(path_type=Path), show_default=True)
def main(quick: bool, only: tuple[str, ...], threads: int, rounds: int, path: Path) -> None:
    """Ratios measured in one run, as tables and as JSON."""
    console = Console()
    settings = (quick_settings if quick else full_settings)(threads, rounds)
    machine = machine_info(threads)
    load = machine["load_average"][0]
    about = f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, threads {threads}, load {load}"
    console.print(about, highlight=False)
    if load > 0.5 * (os.cpu_count() or 1):
        console.print("this machine is busy with other work: trust ratios by processor (CPU) time most")
    rows = []
    for name in only or SUBJECTS:
        console.print(f"measuring {name} …")
        of_subject: list[Row] = []
        for row in SUBJECTS[name](settings):
            of_subject.append(row)
            write_json(path, settings, machine, [*rows, *of_subject])
        rows += of_subject
        console.print(*tables(of_subject))
    console.print(f"kept in {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
