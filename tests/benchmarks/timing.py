"""How things are timed on machines that other work disturbs: in turns, A B A B …, and compared within each turn.

The cases of a group run once untimed, then in rounds. A ratio is taken within every round, where both sides met much the
same machine, and reported as the median over rounds with the smallest and the largest. Beside the wall clock stands
processor time, which other people's work inflates far less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """One run of one case."""

    wall_s: float
    cpu_s: float


class Spread(NamedTuple):
    """What several repetitions gave."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """One line of the report: a figure and, for ratios, what it is a ratio to."""

    subject: str
    shape: str
    measured: str
    unit: str
    spread: Spread
    beside: str = ""
    cpu: float | None = None
    """The ratio's median by processor time."""
    target: float | None = None
    """At most this is aimed for, or at least where ``at_least`` says so."""
    at_least: bool = False
    column: str = ""
    """Where one figure is taken under several conditions, the condition; such rows are shown side by side."""
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, "spread": self.spread._asdict()}


def interleave(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Timing]]:
    """Time the cases in turns, after one round that is not timed.

    Returns:
        For every case its timings, round by round.
    """
    for case in cases.values():
        case()
    timings: dict[str, list[Timing]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            case()
            timings[name].append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return timings


def spread(values: Iterable[float]) -> Spread:
    """Median, smallest and largest."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found), len(found))


def scaled(timings: Sequence[Timing], factor: float) -> list[Timing]:
    """Timings of ``factor`` times the work."""
    return [Timing(timing.wall_s * factor, timing.cpu_s * factor) for timing in timings]


def added(a: Sequence[Timing], b: Sequence[Timing]) -> list[Timing]:
    """Timings of one after the other, round by round."""
    return [Timing(x.wall_s + y.wall_s, x.cpu_s + y.cpu_s) for x, y in zip(a, b, strict=True)]


def ratio_row(
    subject: str,
    shape: str,
    measured: tuple[str, Sequence[Timing]],
    beside: tuple[str, Sequence[Timing]],
    target: float | None = None,
    at_least: bool = False,
) -> Row:
    """The row for one case's time as a ratio to another's, round by round."""
    pairs = list(zip(measured[1], beside[1], strict=True))
    sides = (measured, beside)
    wall_s = {name: statistics.median(t.wall_s for t in timings) for name, timings in sides}
    cpu_s = {name: statistics.median(t.cpu_s for t in timings) for name, timings in sides}
    return Row(
        subject=subject,
        shape=shape,
        measured=measured[0],
        unit="×",
        spread=spread(a.wall_s / b.wall_s for a, b in pairs),
        beside=beside[0],
        cpu=statistics.median(a.cpu_s / b.cpu_s for a, b in pairs),
        target=target,
        at_least=at_least,
        details={"median_s": wall_s, "median_cpu_s": cpu_s},
    )
