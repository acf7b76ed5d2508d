"""What a shard costs beside its measuring: many shards that measure nothing, through driver, Ray's actors and the store.

The time for each shard and the driver's memory should not depend on how many there are: both are given for the first tenth
of the run and for the last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.probe import run_probe
from tests.benchmarks.settings import Settings
from tests.benchmarks.timing import Row, spread

SUBJECT = "shards"
MIB = 2**20
SHARD_MS = 5.0
"""What a shard may cost."""


def measure_shards(settings: Settings) -> Iterator[Row]:
    """Rows for one run with two workers."""
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        request = {"n_shards": settings.n_shards, "n_workers": 2, "folder": folder}
        yield from shard_rows(run_probe("noop", request, Path(folder), settings.threads))


def shard_rows(found: dict[str, Any]) -> Iterator[Row]:
    """What the probe's figures come to."""
    ends, rss, n = found["ends_s"], found["rss_bytes"], len(found["ends_s"])
    tenth = max(2, n // 10)
    shape = f"{n:,} shards that measure nothing, two workers"
    details = {key: found[key] for key in ("own_cpu_s", "descendants_cpu_s")}

    def row(measured: str, unit: str, value: float, target: float | None = None) -> Row:
        return Row(SUBJECT, shape, measured, unit, spread([value]), target=target, details=details)

    yield row("driver, Ray and store, for each shard", "ms", _per_shard_ms(ends), SHARD_MS)
    yield row("… in the first tenth", "ms", _per_shard_ms(ends[:tenth]))
    yield row("… in the last tenth", "ms", _per_shard_ms(ends[-tenth:]))
    first, last = found["own_cpu_s"]
    yield row("the driver's processor time, for each shard", "ms", 1000 * (last - first) / (n - 1))
    yield row("the driver's memory after a tenth", "MiB", rss[tenth - 1] / MIB)
    yield row("… and how much it grows from there to the end", "MiB", (rss[-1] - rss[tenth - 1]) / MIB)


def _per_shard_ms(ends_s: list[float]) -> float:
    return 1000 * (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)
