"""What a person sees while a sweep runs: a bar per model on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from erasure_sweep.workers.printable import printable_line

PLAIN_EVERY_S = 10.0


class Reporter(Protocol):
    """Hears of everything that a person wants to know."""

    def say(self, line: str) -> None:
        """One line of news."""
        ...

    def start_stage(self, name: str, stage: str, done: int, total: int, prompts_per_shard: float) -> None:
        """The shards of a model's stage are planned; ``done`` of them were found in the store."""
        ...

    def advance(self, name: str) -> None:
        """One more shard of its stage is measured."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class SilentReporter:
    """For use as a library."""

    def say(self, line: str) -> None:
        pass

    def start_stage(self, name: str, stage: str, done: int, total: int, prompts_per_shard: float) -> None:
        pass

    def advance(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


class BarReporter:
    """Bars on a terminal, of the shards of all stages that are known yet: shards done, prompts per second, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("shards {task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rates: dict[str, _Rate] = {}

    def say(self, line: str) -> None:
        self._console.print(printable_line(line), markup=False, highlight=False, soft_wrap=True)

    def start_stage(self, name: str, stage: str, done: int, total: int, prompts_per_shard: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=0, rate="")
        bar = next(task for task in self._bars.tasks if task.id == self._tasks[name])
        done, total = int(bar.completed) + done, int(bar.total or 0) + total
        self._bars.update(bar.id, description=f"{name} {stage}", completed=done, total=total, rate="")
        self._rates[name] = _Rate(prompts_per_shard)
        self._bars.start()

    def advance(self, name: str) -> None:
        self._rates[name].advance()
        self._bars.update(self._tasks[name], advance=1, rate=str(self._rates[name]))

    def close(self) -> None:
        self._bars.stop()


class LineReporter:
    """Plain lines: a line per model every few seconds, and when a stage is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._rates: dict[str, _Rate] = {}
        self._said: dict[str, float] = {}

    def say(self, line: str) -> None:
        self._console.print(printable_line(line), markup=False, highlight=False, soft_wrap=True)

    def start_stage(self, name: str, stage: str, done: int, total: int, prompts_per_shard: float) -> None:
        self._stage[name], self._done[name], self._total[name] = stage, done, total
        self._rates[name] = _Rate(prompts_per_shard)
        self._said[name] = time.monotonic()
        self.say(f"{name}: {count(total, 'shard')} of {stage}, {done} already measured")

    def advance(self, name: str) -> None:
        self._done[name] += 1
        rate = self._rates[name]
        rate.advance()
        now, done, total = time.monotonic(), self._done[name], self._total[name]
        if done == total or now - self._said[name] > PLAIN_EVERY_S:
            self._said[name] = now
            shards = f"{name}: {done}/{count(total, 'shard')} of {self._stage[name]}"
            self.say(", ".join(filter(None, [shards, str(rate), rate.left(total - done)])))

    def close(self) -> None:
        pass


class _Rate:
    """Prompts per second, from a stage's first shard on, so that starting workers does not count."""

    def __init__(self, prompts_per_shard: float) -> None:
        self._prompts_per_shard = prompts_per_shard
        self._first: float | None = None
        self._shards_since = 0

    def advance(self) -> None:
        """One more shard came in."""
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._shards_since += 1

    def _shards_per_s(self) -> float | None:
        if self._first is None or self._shards_since == 0:
            return None
        return self._shards_since / max(1e-6, time.monotonic() - self._first)

    def __str__(self) -> str:
        rate = self._shards_per_s()
        return "" if rate is None else f"{rate * self._prompts_per_shard:.1f} prompts/s"

    def left(self, shards: int) -> str:
        """Time for this many more shards, in words."""
        rate = self._shards_per_s()
        return "" if rate is None or not shards else f"about {duration(shards / rate)} left"


def count(n: int, what: str) -> str:
    """So many of something, in words."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def reporter(console: Console) -> Reporter:
    """The reporter that suits where the console writes to."""
    return BarReporter(console) if console.is_terminal else LineReporter(console)
