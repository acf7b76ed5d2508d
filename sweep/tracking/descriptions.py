"""Descriptions of runs and of their experiment in markdown, as MLflow shows them: the result first, then where to look.

MLflow folds a run's description to its first lines and an experiment's to its first. Whatever names and reasons hold is
shown as text: what markdown or HTML would take for its own is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from erasure_sweep.dashboards.wording import (
    amount,
    erased_all_the_same,
    listed,
    measured_line,
    model_line,
    nothing_erased,
    number,
    percent,
    with_interval,
)
from erasure_sweep.sweep.tracking.saved_view import VIEW_NAME, runs_page
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.manifest import Manifest, ManifestEntry
from erasure_sweep.workers.printable import printable_line
from erasure_sweep.workers.tables.facts.erasure import clearly_erased, erased_writers, erasers_of, half_erased
from erasure_sweep.workers.tables.facts.trust import HOLDS, MISLEADING, trust_counts, trust_of
from erasure_sweep.workers.tables.facts.verified import LATER, VerifiedGroup, verdicts
from erasure_sweep.workers.tables.values import Tables

MAX_RUN_NOTE = 7_000
MAX_EXPERIMENT_NOTE = 4_900
"""Characters: what every kind of store keeps of a tag."""

_TOP = 5
_NAMED_HEADS = 4
_NAMED_WRITERS = 6
_RUNNING = "RUNNING"


class Row(NamedTuple):
    """A model of a sweep as its run tells of it."""

    name: str
    page: str
    """Address of its run below the server's own."""
    status: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def plain(text: object) -> str:
    """Text of any kind as one line of markdown that shows it as it is."""
    line = printable_line(" ".join(str(text).split()))
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", line)


def model_note(entry: ManifestEntry, sweep: Manifest | None, tables: Tables) -> str:
    """What is erased in a model, whose DLA to trust, what was verified, and how it was measured.

    Args:
        entry: the model's in the manifest.
        sweep: the manifest.
    """
    parts = [
        _erased_line(tables) or "No writer has a value.",
        _trust_line(tables),
        _verdicts(tables),
        _top_writers(tables),
        f"{plain(model_line(entry))} {plain(measured_line(entry, sweep))}",
        "Under Artifacts: `index.html` is the model's page with all figures, `figures/` has single ones, `tables/` the "
        "numbers as parquet.",
    ]
    return _cut("\n\n".join(part for part in parts if part), MAX_RUN_NOTE)


def _erased_line(tables: Tables) -> str:
    """The most erased writer, and the most erased head where that is another; else what the ledger says."""
    measured = erased_writers(tables)
    if measured.empty:
        return _ledger_line(tables)
    erased, heads = clearly_erased(tables), clearly_erased(tables, heads=True)
    if erased.empty:
        said = [f"Erased by reading: {nothing_erased([tables])}", erased_all_the_same(tables), _ledger_line(tables)]
        return " ".join(part for part in said if part)
    said = [f"Most erased: {_erasure(tables, erased.iloc[0])}"]
    if heads.empty:
        no_head = not measured["writer"].astype(str).map(is_head).any()
        said.append("no head has later heads that could read it" if no_head else "no head clearly is")
    elif heads["writer"].iloc[0] != erased["writer"].iloc[0]:
        said.append(f"most erased head: {_erasure(tables, heads.iloc[0])}")
    return f"{'; '.join(said)}. 1 is all that the writer wrote. {_ledger_line(tables)}".rstrip()


def _erasure(tables: Tables, row: pd.Series[Any]) -> str:
    erasers = erasers_of(tables, str(row["writer"]))
    by = f" ({listed(erasers, _NAMED_HEADS)})" if erasers else ""
    share = number(row["erased"])
    at = " in the stream where it writes, ".join(number(row.get(name)) for name in ("written", "remaining"))
    return (
        f"**{row['writer']}**, of which later heads{by} take out {share} because they read it (of it {at} at the end)"
    )


def _ledger_line(tables: Tables) -> str:
    half = half_erased(tables)
    if not half.of:
        return ""
    return f"{amount(half.n)} of {amount(half.of)} writers end with less than half of what they wrote."


def _trust_line(tables: Tables) -> str:
    counts = trust_counts(tables)
    known = sum(counts.values())
    if not known:
        return ""
    words = [f"{amount(n)} {word}" for word, n in counts.items() if word != HOLDS and n]
    line = f"The direct logit attribution of {amount(counts[HOLDS])} of {amount(known)} components holds"
    least = [writer for writer, word in trust_of(tables).items() if word in MISLEADING]
    named = f" Not to be trusted: {listed(least, _NAMED_WRITERS)}." if least else ""
    return f"{line}{f' ({listed(words)})' if words else ''}.{named}"


def _verdicts(tables: Tables) -> str:
    found = verdicts(tables)
    if not found:
        return ""
    where = "on prompts that the scan did not see" if all(one.held_out for one in found) else "on the scan's prompts"
    lines = [
        f"- {verdict.group.writer} by {_heads(verdict.group)}: {verdict.word or 'no verdict'}, β {with_interval(*verdict.beta)}"
        for verdict in found[:_TOP]
    ]
    more = [f"- and {amount(len(found) - _TOP)} more"] if len(found) > _TOP else []
    return "\n".join([f"Verified {where}; at β −1 the heads take out all of the writer:", "", *lines, *more])


def _heads(group: VerifiedGroup) -> str:
    return "all later heads" if group.label == LATER else listed(group.label.split("+"), _NAMED_HEADS)


def _top_writers(tables: Tables) -> str:
    measured = clearly_erased(tables).head(_TOP)
    if measured.empty:
        return ""
    rows = [
        "| writer | erased by reading | means removed | written | remaining | erasers |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    columns = ("erased", "erased_centred", "written", "remaining")
    for row in measured.to_dict("records"):
        erasers = erasers_of(tables, str(row["writer"]))
        numbers = " | ".join(number(row.get(name)) for name in columns)
        rows.append(f"| {row['writer']} | {numbers} | {listed(erasers, _NAMED_HEADS) if erasers else 'none'} |")
    return "\n".join(rows)


def sweep_note(manifest: Manifest, rows: Sequence[Row]) -> str:
    """What a sweep measured, its models beside each other, and where to look.

    Args:
        manifest: the sweep's.
        rows: its models.
    """
    closing = (
        "Under Artifacts, once the sweep has ended: `compare.html` puts the models side by side, `manifest.json` says how each "
        f"was measured. Each model has a run of its own.\n\n{_protocol(manifest)}"
    )
    return _with_table(_opening(rows), rows, closing, MAX_RUN_NOTE)


def experiment_note(name: str, experiment_id: str, manifest: Manifest, rows: Sequence[Row]) -> str:
    """What an experiment holds and how to look at it, with the models of its newest sweep.

    Args:
        name: of the sweep.
    """
    opening = (
        f"**Erasure in language models**: which components' outputs later ones take back. {_opening(rows)}\n\n"
        f"Begin with the view [{VIEW_NAME}]({runs_page(experiment_id)}): a row for each model, and as charts the models "
        "side by side. A model's run opens with its result; under Artifacts `index.html` is its page. The run of the "
        "sweep has `compare.html`, where all models stand side by side."
    )
    closing = f"From the newest sweep, {plain(name)}. {_protocol(manifest)}"
    return _with_table(opening, rows, closing, MAX_EXPERIMENT_NOTE)


def _opening(rows: Sequence[Row]) -> str:
    finished = [row for row in rows if row.status == "FINISHED"]
    count = f"{amount(len(rows))} model{'' if len(rows) == 1 else 's'}"
    running = sum(row.status == _RUNNING for row in rows)
    unfinished = len(rows) - len(finished) - running
    notes = [f"{amount(running)} of which still measured"] if running else []
    notes += [f"{amount(unfinished)} of which not measured whole"] if unfinished else []
    said = [f"{', '.join([count, *notes])}."]
    erased = [row for row in finished if "reading/most_erased_head" in row.metrics]
    if erased:
        most = max(erased, key=lambda row: row.metrics["reading/most_erased_head"])
        head, share = most.tags.get("most_erased_head"), number(most.metrics["reading/most_erased_head"])
        said.append(
            f"The most erased head is {head} of {plain(most.name)}: later heads take out {share} of it because they "
            "read it."
            if head
            else f"What later heads take out of any head because they read it is not clear of chance: the most is {share}, "
            f"in {plain(most.name)}."
        )
    return " ".join(said)


def _protocol(manifest: Manifest) -> str:
    return plain(measured_line(None, manifest))


_HEADINGS = (
    *("model", "layers", "width", "parameters", "most erased", "erased by reading"),
    *("most erased head", "erased by reading", "DLA holds"),
)
_LEFT = ("model", "most erased", "most erased head")


def _with_table(opening: str, rows: Sequence[Row], closing: str, most: int) -> str:
    """The opening, as many models as fit, and the closing."""
    rule = (" --- " if heading in _LEFT else " ---: " for heading in _HEADINGS)
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{'|'.join(rule)}|"]
    room = most - len(opening) - len(closing) - sum(map(len, lines)) - 100
    for index, row in enumerate(rows):
        line = _table_row(row)
        room -= len(line) + 1
        if room < 0:
            lines += ["", f"and {amount(len(rows) - index)} more."]
            break
        lines.append(line)
    table = "\n".join(lines)
    return _cut(f"{opening}\n\n{table}\n\n{closing}" if rows else f"{opening}\n\n{closing}", most)


def _table_row(row: Row) -> str:
    def said(name: str, digits: int | None = None) -> str:
        value = row.metrics.get(name, math.nan)
        return amount(value) if digits is None else number(value, digits)

    cells: Iterable[str] = (
        f"[{plain(row.name)}]({row.page}){_standing(row)}",
        *(said(f"model/{size}") for size in ("n_layers", "d_model", "n_params")),
        row.tags.get("most_erased", "—"),
        said("reading/most_erased", 2),
        row.tags.get("most_erased_head", "—"),
        said("reading/most_erased_head", 2),
        percent(row.metrics.get("trust/holds_share", math.nan)),
    )
    return f"| {' | '.join(cells)} |"


def _standing(row: Row) -> str:
    if row.status == "FINISHED":
        return ""
    return " (still measured)" if row.status == _RUNNING else f" ({row.status.lower()})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 2]} …"
