"""Descriptions of runs and of their experiment in markdown, as MLflow shows them: the result first, then where to look.

MLflow folds a run's description to its first lines and an experiment's to its first. Whatever names and reasons hold is
shown as text: what markdown or HTML would take for its own is escaped.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from erasure_sweep.dashboards.wording import (
    amount,
    erased_all_the_same,
    listed,
    means_kept,
    measured_line,
    model_line,
    nothing_erased,
    number,
    percent,
    with_interval,
    written_and_remaining,
)
from erasure_sweep.sweep.tracking.saved_view import VIEW_NAME, runs_page
from erasure_sweep.workers.manifest import Manifest, ManifestEntry
from erasure_sweep.workers.printable import printable_line
from erasure_sweep.workers.tables.facts.erased_writers import ErasedWriter, erased_writers_of
from erasure_sweep.workers.tables.facts.erasure import erased_shares, half_gone
from erasure_sweep.workers.tables.facts.heads import quantile_of, shown_heads
from erasure_sweep.workers.tables.facts.trust import HOLDS, MISLEADING, WORDS, settled_words, trust_of
from erasure_sweep.workers.tables.facts.verified import LATER, VerifiedGroup, verdicts
from erasure_sweep.workers.tables.values import Tables

MAX_RUN_NOTE = 7_000
MAX_EXPERIMENT_NOTE = 4_900
"""Characters: what every kind of store keeps of a tag."""

_TOP = 5
_NAMED_HEADS = 4
_NAMED_WRITERS = 6
_MEDIAN = "erased/heads_median"
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
    if not erased_shares(tables):
        return _ledger_line(tables)
    erased, heads = erased_writers_of(tables), erased_writers_of(tables, heads=True)
    if not erased:
        said = [f"Erased: {nothing_erased([tables])}", erased_all_the_same(tables), _ledger_line(tables)]
        return " ".join(part for part in said if part)
    said = [f"Most erased: {_erasure(erased[0])}"]
    if not heads:
        said.append(
            "no head clearly is" if shown_heads(tables).labels else "no head has later heads that could read it"
        )
    elif heads[0].writer != erased[0].writer:
        said.append(f"most erased head: {_erasure(heads[0])}")
    return f"{'; '.join(said)}. {_heads_line(tables)} {_ledger_line(tables)}".strip()


def _erasure(one: ErasedWriter) -> str:
    by = f" ({listed(one.erasers, _NAMED_HEADS)})" if one.erasers else ""
    return (
        f"**{one.writer}**, of which later heads{by} take out {with_interval(*one.share)}{means_kept(one)}; "
        f"{written_and_remaining(one)}"
    )


def _heads_line(tables: Tables) -> str:
    """The median over heads, with what is said of no single one."""
    heads = shown_heads(tables)
    if not heads.labels:
        return "1 is all that the writer wrote."
    return (
        f"The median over {amount(len(heads.labels))} heads is {with_interval(*quantile_of(heads, 0.5))}; 1 is all that the "
        "writer wrote, below 0 later heads add to it."
    )


def _ledger_line(tables: Tables) -> str:
    half = half_gone(tables)
    if not half.of:
        return ""
    means = "removed" if half.centred else "kept"
    return f"{amount(half.n)} of {amount(half.of)} writers end with less than half of what they wrote, means {means}."


def _trust_line(tables: Tables) -> str:
    told, settled = trust_of(tables), settled_words(tables)
    if not told:
        return ""
    counts = Counter(settled.values())
    words = [f"{amount(counts[word])} {word}" for word in WORDS if counts[word]]
    unsettled = f"; {amount(len(told) - len(settled))} unsettled" if len(settled) < len(told) else ""
    line = (
        f"The direct logit attribution of {amount(counts[HOLDS])} of {amount(len(told))} components holds"
        f" ({listed(words) if words else 'no word is settled'}{unsettled})."
    )
    least = [writer for writer, word in settled.items() if word in MISLEADING]
    return f"{line} It misleads for {listed(least, _NAMED_WRITERS)}." if least else line


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
    measured = erased_writers_of(tables)[:_TOP]
    if not measured:
        return ""
    rows = [
        "| writer | erased | means kept | diluted | written | remaining | erasers |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in measured:
        numbers = " | ".join(number(value) for value in (one.kept, one.diluted, one.written, one.remaining))
        erasers = listed(one.erasers, _NAMED_HEADS) if one.erasers else "none"
        rows.append(f"| {one.writer} | {with_interval(*one.share)} | {numbers} | {erasers} |")
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
    medians = {row.name: row.metrics[_MEDIAN] for row in finished if _MEDIAN in row.metrics}
    if medians:
        ends = [
            f"{number(medians[name])} of {plain(name)}"
            for name in (min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__))
        ]
        said.append(
            f"What later heads take out of a head, the median over a model's heads: {' to '.join(dict.fromkeys(ends))}; each "
            "model is one training run."
        )
        nothing = sum("most_erased" not in row.tags for row in finished if row.name in medians)
        if nothing:
            where = f"In {amount(nothing)} of {amount(len(medians))} models n" if len(rows) > 1 else "N"
            said.append(f"{where}othing is taken out clear of chance.")
    return " ".join(said)


def _protocol(manifest: Manifest) -> str:
    return plain(measured_line(None, manifest))


_HEADINGS = (
    *("model", "layers", "width", "parameters", "erased, median over heads", "largest of 8 heads"),
    *("most erased", "most erased head", "DLA that holds, of settled"),
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
        said(_MEDIAN, 2),
        said("erased/heads_most_of_8", 2),
        row.tags.get("most_erased", "—"),
        row.tags.get("most_erased_head", "—"),
        percent(row.metrics.get("trust/holds_share", math.nan)),
    )
    return f"| {' | '.join(cells)} |"


def _standing(row: Row) -> str:
    if row.status == "FINISHED":
        return ""
    return " (still measured)" if row.status == _RUNNING else f" ({row.status.lower()})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 2]} …"
