"""What a benchmark run leaves: tables to read and JSON to keep, with what machine it was."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table

from tests.benchmarks.settings import Settings
from tests.benchmarks.timing import Row


def machine_info(threads: int) -> dict[str, Any]:
    """The machine, and how busy it is: figures taken among other people's work vary."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformer_lens": version("transformer_lens"),
        "ray": version("ray"),
        "erasure_sweep": version("erasure-sweep"),
        "threads": threads,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def tables(rows: list[Row]) -> list[Table]:
    """The rows, a table for each subject and shape."""
    found = []
    for (subject, shape), group in groupby(rows, key=lambda row: (row.subject, row.shape)):
        together = list(group)
        draw = _side_by_side if together[0].column else _table
        found.append(draw(f"{subject}: {shape}", together))
    return found


def _side_by_side(title: str, rows: list[Row]) -> Table:
    """One line for each figure, with a column for each condition."""
    columns = list(dict.fromkeys(row.column for row in rows))
    values = {(row.measured, row.column): _number(row.spread.median, 4) for row in rows}
    table = Table("measured", title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for measured in dict.fromkeys(row.measured for row in rows):
        table.add_row(measured, *(values[measured, column] for column in columns))
    return table


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("measured, ÷ what it is beside")
    for heading in ("median", "min – max", "by CPU time", "aim"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        median, low, high, n = row.spread
        between = "" if n == 1 else f"{_number(low)} – {_number(high)}"
        measured = f"{row.measured}\n÷ {row.beside}" if row.beside else row.measured
        cpu = "" if row.cpu is None else f"{_number(row.cpu)} ×"
        target = "" if row.target is None else f"{'≥' if row.at_least else '≤'} {row.target:g}"
        table.add_row(measured, f"{_number(median)} {row.unit}", between, cpu, target)
    return table


def _number(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}" if abs(value) < 100 else f"{value:.0f}"


def write_json(path: Path, settings: Settings, before: dict[str, Any], rows: list[Row]) -> None:
    """Keep everything, seconds and shapes included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    after = [round(load, 2) for load in os.getloadavg()]
    machine = {**before, "load_average_after": after}
    content = {"machine": machine, "settings": asdict(settings), "rows": [row.to_json() for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
