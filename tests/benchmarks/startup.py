"""How long the package takes to start: its import and the command's help, beside a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.benchmarks.settings import Settings
from tests.benchmarks.timing import Row, interleave, ratio_row, spread
from tests.support.paths import ROOT

SUBJECT = "startup"
HELP_S = 0.5
"""What the list of commands may take."""
_NOTHING = "a Python that does nothing"


def measure_startup(settings: Settings) -> Iterator[Row]:
    """Rows for the import and for ``--help``; each is a process of its own."""
    arguments = {
        _NOTHING: ("-c", ""),
        "import erasure_sweep": ("-c", "import erasure_sweep"),
        "erasure-sweep --help": ("-m", "erasure_sweep.sweep.commands", "--help"),
    }
    timings = interleave({name: partial(_run, *command) for name, command in arguments.items()}, settings.rounds)
    nothing = timings.pop(_NOTHING)
    for name, times in timings.items():
        row = ratio_row(SUBJECT, "a process", (name, times), (_NOTHING, nothing))
        yield replace(row, cpu=None)  # the processor time of other processes is not counted
    wall_s = spread(timing.wall_s for timing in timings["erasure-sweep --help"])
    yield Row(SUBJECT, "a process", "erasure-sweep --help", "s", wall_s, target=HELP_S)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
