"""Published against measured, as a report: sections of a heading, a table and what is to be known about it.

Sections are built once, from the comparisons and the tables, and then drawn twice: for a terminal and as markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from erasure_sweep.dashboards.wording import number, percent, with_interval
from erasure_sweep.sweep.replication.matching import (
    HELD_OUT,
    MEASURES,
    NONE,
    ROUNDING,
    SCAN,
    Comparison,
    Entry,
    Measured,
    Results,
    as_table,
    has_prompts,
)
from erasure_sweep.sweep.replication.published_numbers import STATISTICS

WORST_ROWS = 10
MISSING = "—"
TOPICS = ("erasers", "erasure", "residual", "dla")
LINE = ("r", "slope", "intercept")
MANY = {"residual": "entries of the table of residual projections", "adversarial": "numbers of the adversarial prompts"}
"""Topics of which what is missing is counted, not listed."""


class Section(NamedTuple):
    """One part of the report."""

    title: str
    headings: tuple[str, ...] = ()
    """Of the columns; those that begin with ``>`` are of numbers, aligned to the right."""
    rows: Sequence[tuple[str, ...]] = ()
    notes: Sequence[str] = ()
    """Lines below the table."""


def sections(results: Results, comparisons: Sequence[Comparison], out: str) -> list[Section]:
    """The whole report.

    Args:
        out: where the table of all comparisons is, as the report names it.
    """
    of = {topic: [c for c in comparisons if c.entry.topic == topic] for topic in TOPICS}
    found = [
        _about(results, comparisons, out),
        _erasers(results.writer, of["erasers"]),
        _numbers(f"Erasure of {results.writer}", of["erasure"]),
        *_residuals(of["residual"]),
        _lines(results, of["dla"]),
        *_adversarial(results),
        *_figures(results),
        _missing(comparisons),
    ]
    return [section for section in found if section.rows or section.notes]


def _about(results: Results, comparisons: Sequence[Comparison], out: str) -> Section:
    """What was measured, what a difference can mean, and how much agrees."""
    model, name = results.published.model, results.about["name"]
    same, differs = results.same_model, results.other_protocol
    said = [f"{results.writer} of {name} on {_of_prompts(results)}."]
    if same is False:
        said.append(
            f"{name} is another model than {model}: the differences below say nothing about the published numbers; they "
            "only show that every one of them can be measured."
        )
    elif same is None:
        said.append(
            f"{name} has the shape of {model}. Whether it has its weights is not known here; if not, the differences below "
            "say nothing about the published numbers."
        )
    if differs:
        said.append(f"Not the published protocol: {'; '.join(differs)}. Differences are of sampling as well.")
    if same is not False:
        said += _agreement(comparisons)
    said.append(f"All rows, with intervals and the number of tokens: {out}")
    return Section(f"Published against measured: {name}", notes=said)


def _of_prompts(results: Results) -> str:
    """What the two stages were measured on."""
    positions, about = results.config.get("positions"), results.about
    tokens = "every position" if positions == "all" else f"{positions} positions of each"
    up_to = "up to " if str(results.config.get("pack")) == "False" else ""
    second = "that the scan has not seen" if results.verified_on == HELD_OUT else "of the same"
    which = SCAN if results.other_protocol or results.same_model is False else f"{SCAN}, drawn as published"
    return (
        f"{about.get('n_prompts')} prompts × {up_to}{results.config.get('seq_len')} tokens, {tokens} ({which}), and on "
        f"{about.get('n_verify_prompts')} prompts {second} ({results.verified_on})"
    )


def _agreement(comparisons: Sequence[Comparison]) -> list[str]:
    """How many numbers of the text, and how much of the table, agree."""
    lines = []
    for name, of_table in (("numbers of the texts", False), ("entries of the table", True)):
        those = [c for c in comparisons if c.counts and (c.entry.topic == "residual") == of_table]
        measured = [c for c in those if c.agrees is not None]
        missing = f"; {len(those) - len(measured)} were not measured" if len(measured) < len(those) else ""
        agree = sum(bool(c.agrees) for c in measured)
        lines.append(f"{agree} of {len(measured)} {name} agree within tolerance{missing}.")
    return lines


def _erasers(writer: str, comparisons: Sequence[Comparison]) -> Section:
    """The list of erasers, published and found."""
    entry = comparisons[0].entry
    published = str(entry.published).split()
    rows = [(f"published ({entry.where})", "", str(len(published)), " ".join(published), "", "")]
    for found in (c.found for c in comparisons):
        heads = [] if found.measured in (None, NONE) else str(found.measured).split()
        missing, more = ([h for h in a if h not in b] for a, b in ((published, heads), (heads, published)))
        count = MISSING if found.measured is None else str(len(heads))
        rows.append((found.variant, found.prompts, count, " ".join(heads), " ".join(missing), " ".join(more)))
    return Section(
        f"Erasers of {writer}", ("by", "prompts", ">heads", "which", "not found", "besides"), rows, (entry.known,)
    )


def _numbers(title: str, comparisons: Sequence[Comparison]) -> Section:
    """Published numbers, one line for each counterpart; the published one stands in the first."""
    notes = list(dict.fromkeys(c.entry.known for c in comparisons))
    rows = []
    for entry, those in _by_entry(comparisons):
        name = f"{entry.number}{f', {entry.statistic}' if entry.statistic else ''} ({entry.where})"
        first = (name, number(entry.published, 3))
        for index, c in enumerate(those):
            note = str(notes.index(entry.known) + 1) if index == 0 else ""
            within = MISSING if c.agrees is None else f"{'yes' if c.agrees else 'no'}, {entry.tolerance:g}"
            measured = (c.found.variant, c.found.prompts, number(c.found.measured, 3))
            rows.append((*(first if index == 0 else ("", "")), *measured, _signed(c.difference), within, note))
    headings = ("published", ">number", "measured as", "prompts", ">measured", ">difference", "within", "note")
    return Section(title, headings, rows, [f"{i}. {note}" for i, note in enumerate(notes, start=1)])


def _by_entry(comparisons: Sequence[Comparison]) -> list[tuple[Entry, list[Comparison]]]:
    entries = dict.fromkeys(c.entry for c in comparisons)
    return [(entry, [c for c in comparisons if c.entry == entry]) for entry in entries]


def _signed(value: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + number(value, 3)


def _lines(results: Results, comparisons: Sequence[Comparison]) -> Section:
    """Published lines, each above every measured line that it may be; ``*`` where a difference exceeds the tolerance."""
    rows, notes = [], []
    for (where, what), those in _by_line(comparisons).items():
        published = {c.entry.statistic: number(c.entry.published, 3) for c in those}
        first = [cell for statistic in LINE for cell in (published.get(statistic, ""), "")]
        rows.append((f"{what} ({where})", "published", "", *first))
        of = next(n for n in results.published.numbers if (n.where, n.what) == (where, what))
        measured = [list(MEASURES[of.measure](results, of._replace(statistic=statistic))) for statistic in LINE]
        for found in zip(*measured, strict=True):
            cells = [cell for one, statistic in zip(found, LINE, strict=True) for cell in _cells(one, statistic, those)]
            rows.append(("", found[0].variant, found[0].prompts, *cells))
        notes.append(f"{where}: {those[0].entry.known} Tolerance {those[0].entry.tolerance:g}.")
    columns = [heading for statistic in LINE for heading in (f">{statistic}", ">difference")]
    title = f"DLA of the erasers against {results.writer}'s: least squares lines"
    return Section(title, ("line", "measured as", "prompts", *columns), rows, [*notes, "* is beyond the tolerance."])


def _by_line(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], list[Comparison]]:
    lines: dict[tuple[str, str], list[Comparison]] = {}
    for c in comparisons:
        lines.setdefault((c.entry.where, c.entry.number), []).append(c)
    return lines


def _cells(found: Measured, statistic: str, comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """A number of a measured line and, where one is published, how far it is from that."""
    beside = next((c for c in comparisons if c.found == found and c.entry.statistic == statistic), None)
    difference = "" if beside is None else _signed(beside.difference) + ("*" if beside.agrees is False else "")
    return number(found.measured, 3), difference


def _residuals(comparisons: Sequence[Comparison]) -> list[Section]:
    """The published table of residual projections, in short, and the entries that differ most."""
    found = as_table(comparisons)
    found["size"] = found["difference"].astype(float).abs()
    tolerance, known = comparisons[0].entry.tolerance or 0.0, comparisons[0].entry.known
    rows = []
    for statistic in STATISTICS:
        size = found.loc[(found["statistic"] == statistic) & found["size"].notna(), "size"]
        within = percent(float((size <= tolerance + ROUNDING).mean()))
        rows.append((statistic, str(len(size)), number(size.median(), 3), number(size.max(), 3), within))
    worst = found[found["size"] > 0].nlargest(WORST_ROWS, "size").to_dict("records")
    headings = (">entries", ">median |difference|", ">largest |difference|", f">within {tolerance:g}")
    return [
        Section("Residual projections, 36 components × 9 states", ("statistic", *headings), rows, (known,)),
        Section(
            f"The {len(worst)} entries that differ most",
            ("writer in state", "statistic", ">published", ">measured", ">difference"),
            [_entry_row(row) for row in worst],
        ),
    ]


def _entry_row(row: Mapping[Any, Any]) -> tuple[str, ...]:
    numbers = (number(row["published"], 3), number(row["measured"], 3), _signed(row["difference"]))
    return (str(row["number"]), str(row["statistic"]), *numbers)


def _adversarial(results: Results) -> list[Section]:
    """The four prompts: what the model predicts, and whether attribution survives other prompts' inputs."""
    title = "Adversarial prompts"
    if not has_prompts(results):
        return []
    predicted, attributed = [], []
    for index, prompt in enumerate(results.published.prompts):
        rows = results.rows("adversarial", source="given", prompt=index)
        if rows.empty:
            continue
        first = rows.iloc[0]
        predicted.append(
            (
                repr(prompt.text),
                f"{prompt.top!r}, {prompt.second!r}",
                f"{first['top']!r}, {first['second']!r}",
                number(prompt.logit_diff, 2),
                number(first["logit_diff"], 2),
            )
        )
        attributed += [_attribution(index, prompt.other_head, role, rows) for role in ("writer", "other")]
    return [
        Section(
            f"{title}: the two likeliest tokens and their logit difference",
            ("prompt", "published", "measured", ">published", ">measured"),
            predicted,
            (results.published.adversarial.known,),
        ),
        Section(
            f"{title}: DLA with the input of other prompts, median and 12.5–87.5 %",
            ("prompt", "head", "published", ">clean", ">last position replaced", ">all positions replaced", ">change"),
            [row for row in attributed if row],
            (
                "The paper replaces the last position (Figure 5, no numbers): the writer's DLA stays, the other heads' does "
                "not. Change is that of the median there, as a share of clean. The other head has the highest DLA.",
                *_aligned(results),
            ),
        ),
    ]


def _attribution(index: int, other_head: str, role: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """One head at one prompt, clean and patched."""
    by_inputs = {row["inputs"]: row for row in rows[rows["role"] == role].to_dict("records")}
    if "last" not in by_inputs:
        return ()
    last, everywhere = by_inputs["last"], by_inputs.get("all", {})
    published = other_head if role == "other" else str(last["component"])
    band = [with_interval(row.get("median"), row.get("q12_5"), row.get("q87_5")) for row in (last, everywhere)]
    return (str(index + 1), str(last["component"]), published, number(last["clean"]), *band, percent(last["change"]))


def _aligned(results: Results) -> list[str]:
    """Where the tokens that the authors chose stand among those that the writer raises most."""
    rows = results.rows("aligned_tokens")
    if rows.empty or rows["token"].isna().all():
        return []
    rank = dict(zip(rows["token"], rows["rank"], strict=True))
    shown = ", ".join(f"{p.top!r} {rank.get(p.top, 'not')}" for p in results.published.prompts)
    return [f"Their ranks among the {len(rows)} tokens that {results.writer} raises most on average: {shown}."]


def _figures(results: Results) -> list[Section]:
    """What the paper shows without numbers: its Figures 1 and 3, with their bands."""
    columns = ("patch", ">clean median, 12.5–87.5 %", ">patched median, 12.5–87.5 %")
    states = results.rows("patched_residual_projection", eraser=results.heads, patch="layer")
    heads = results.rows("eraser_group", chosen="named")
    found = []
    if len(states):
        note = "Captions say quartiles, but the figures were drawn with seaborn's middle 75 %: compare 12.5–87.5 %."
        found.append(Section("For Figure 1", ("state", *columns[1:]), _banded(states, "state"), (note,)))
    if len(heads):
        note = (
            "Figure 2 shows the clean medians of every component of layers 1 to 3: tables/component_projection.parquet."
        )
        found.append(Section("For Figure 3", ("head", *columns[1:]), _banded(heads, "eraser"), (note,)))
    return [section._replace(title=f"{section.title} ({results.verified_on})") for section in found]


def _banded(rows: pd.DataFrame, key: str) -> list[tuple[str, ...]]:
    runs = ("clean", "patched")
    return [
        (_short(str(row[key])), *(_band(row, run) for run in runs)) for row in rows.astype(object).to_dict("records")
    ]


def _short(label: str) -> str:
    return "their sum" if "+" in label else label


def _band(row: Mapping[Any, Any], run: str) -> str:
    return with_interval(*(row[f"{run}_{name}"] for name in ("median", "q12_5", "q87_5")))


def _missing(comparisons: Sequence[Comparison]) -> Section:
    """What has no counterpart, and why: numbers with one and the same reason in one line."""
    reasons: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if c.found.why_not is not None:
            reasons.setdefault(c.found.why_not, []).append(c)
    lines = []
    for why, those in reasons.items():
        what = dict.fromkeys(_named(c) for c in those if c.entry.topic not in MANY)
        counts = {name: sum(c.entry.topic == topic for c in those) for topic, name in MANY.items()}
        lines.append(f"{why}: {'; '.join([*what, *(f'{n} {name}' for name, n in counts.items() if n)])}.")
    return Section("Not measured", notes=lines)


def _named(c: Comparison) -> str:
    statistic = f", {c.entry.statistic}" if c.entry.statistic else ""
    return f"{c.entry.number}{statistic} ({c.found.variant})"


def show(report: Sequence[Section], console: Console) -> None:
    """Print a report."""
    for section in report:
        console.print(Group(Text(section.title, style="bold"), *_drawn(section), Text("")))


def _drawn(section: Section) -> list[Any]:
    parts: list[Any] = []
    if section.rows:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="italic")
        for heading in section.headings:
            right = heading.startswith(">")
            table.add_column(
                heading.removeprefix(">"), justify="right" if right else "left", no_wrap=False, overflow="fold"
            )
        for row in section.rows:
            table.add_row(*map(escape, row))
        parts.append(table)
    return [*parts, *(Text(note) for note in section.notes)]


def markdown(report: Sequence[Section]) -> str:
    """A report as markdown."""
    lines: list[str] = []
    for level, section in zip(("#", *["##"] * len(report)), report, strict=False):
        lines += [f"{level} {section.title}", ""]
        if section.rows:
            rule = ["---:" if heading.startswith(">") else "---" for heading in section.headings]
            for cells in ([h.removeprefix(">") for h in section.headings], rule, *section.rows):
                lines.append(" | ".join(["", *(cell.replace("|", "\\|") for cell in cells), ""]).strip())
            lines.append("")
        lines += [line for note in section.notes for line in (note, "")]
    return "\n".join(lines).rstrip() + "\n"
