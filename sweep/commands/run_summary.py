"""What ``run`` prints in the end: the strongest writers of each model, what was verified of them, where to look next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from rich.markup import escape
from rich.table import Table

from erasure_sweep.dashboards.wording import erased_all_the_same, nothing_erased
from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.driver import SweepOutcome
from erasure_sweep.sweep.run_folder import MODEL_PAGE
from erasure_sweep.sweep.terminal.printed_table import printed_table
from erasure_sweep.sweep.terminal.printing import console, print_line
from erasure_sweep.sweep.terminal.progress import count
from erasure_sweep.sweep.tracking.store_address import named_uri, ui_command
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.tables.facts.erased_writers import ErasedWriter, erased_writers_of
from erasure_sweep.workers.tables.facts.trust import trust_counts
from erasure_sweep.workers.tables.facts.verified import LATER, Interval, Verdict, verdicts
from erasure_sweep.workers.tables.files import read_tables

_MOST_HEADS = 12
_SHOWN_TABLES = ("writers", "erasers", "eraser_group", "patched_residual_projection", "dla_correlation", "dla_trust")
"""The tables that the final lines are drawn from; all of a large sweep's would take much memory."""
_PROMPTS = {True: "other prompts", False: "scanned prompts"}
"""On which prompts verify measured, by whether they are held out."""


def print_outcome(config: SweepConfig, outcome: SweepOutcome) -> None:
    """Show the strongest writers of each finished model, what was verified of them, and where to look next."""
    finished = {}
    for entry in outcome.manifest.models:
        with suppress(DataError):  # of an earlier run's model: the outcome's problems say so
            if entry.is_finished:
                finished[entry.name] = read_tables(outcome.folder.tables(entry.folder), _SHOWN_TABLES)
    scanned = {name: tables for name, tables in finished.items() if "writers" in tables}
    erased = {name: erased_writers_of(tables)[: config.top] for name, tables in scanned.items()}
    if found := {name: writers for name, writers in erased.items() if writers}:
        console.print(_writers_table(found))
    for name, tables in scanned.items():
        if name not in found:
            nothing = nothing_erased([tables]) or "not measured, since no later heads read any writer."
            print_line(f"{name}: erased: {nothing} {erased_all_the_same(tables)}".rstrip())
    if verified := {name: of_model for name, tables in finished.items() if (of_model := verdicts(tables))}:
        console.print(_verified_table(verified))
    for name, tables in finished.items():
        if counts := trust_counts(tables):
            words = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
            print_line(
                f"{name}: DLA beside what replacing it by its mean does, of {count(sum(counts.values()), 'writer')}: {words}"
            )
    _print_places(config, outcome)


def _print_places(config: SweepConfig, outcome: SweepOutcome) -> None:
    out = outcome.folder.out
    places = {
        "side by side": outcome.folder.comparison,
        "each model": f"{out}/MODEL/{MODEL_PAGE}",
        "tables": f"{out}/MODEL/tables/*.parquet",
        "MLflow": ui_command(config.experiment or config.name, named_uri(config.tracking_uri)),
    }
    for kind, place in places.items():
        print_line(f"{kind:<14} {place}")


def _writers_table(models: dict[str, list[ErasedWriter]]) -> Table:
    """What the scan says of the most erased writers."""
    numbers = ("erased", "means kept", "diluted", "written", "remaining")
    table = printed_table(
        "Writers whose output later heads read and take back out",
        {"model": "name", "writer": "name", **dict.fromkeys(numbers, "number"), "erasers": "text"},
    )
    for model, writers in models.items():
        for index, one in enumerate(writers):
            values = (one.kept, one.diluted, one.written, one.remaining)
            numbers_of = (_with_interval(one.share), *map(_number, values))
            table.add_row(escape(model) if index == 0 else "", one.writer, *numbers_of, _heads(one.erasers))
        table.add_section()
    table.caption = (
        "Shares of the writer's output, means removed where that was measured. Erased: what later heads take out because "
        "they read it. Diluted: what a growing stream makes of it."
    )
    table.caption_justify = "left"
    return table


def _verified_table(models: dict[str, list[Verdict]]) -> Table:
    """What verify says of its groups."""
    held_out = {bool(verdict.held_out) for of_model in models.values() for verdict in of_model}
    where = " and ".join(_PROMPTS[held] for held in sorted(held_out, reverse=True))
    numbers = ("β of reading", "DLA slope", "presence")
    table = printed_table(
        f"Verified on {where}",
        {"model": "name", "writer": "name", **dict.fromkeys(numbers, "number"), "verdict": "text", "erasers": "text"},
    )
    table.caption = (
        "β: what the erasers write along the writer because they read it. Presence: the writer's median behind them → the "
        "same if they did not read it. Not found: β is not beyond −τ, or not beyond that of placebos, the output turned at "
        "random."
    )
    table.caption_justify = "left"
    for model, of_model in models.items():
        for index, verdict in enumerate(of_model):
            beta, presence = verdict.beta, verdict.presence
            table.add_row(
                escape(model) if index == 0 else "",
                verdict.group.writer,
                _with_interval(beta),
                _number(verdict.dla_slope),
                f"{_number(presence.clean)} → {_number(presence.patched)}",
                verdict.word or "–",
                "all later heads" if verdict.group.label == LATER else _heads(verdict.group.label.split("+")),
            )
        table.add_section()
    return table


def _heads(erasers: Sequence[str]) -> str:
    """Heads for reading; of dozens the first, the rest are in the tables."""
    more = len(erasers) - _MOST_HEADS
    return " ".join(erasers[:_MOST_HEADS]) + (f" and {more} more" if more > 0 else "") or "–"


def _with_interval(value: Interval) -> str:
    return _number(value.value) + ("" if math.isnan(value.low) else f" ({value.low:.2f}, {value.high:.2f})")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")
