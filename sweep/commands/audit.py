"""``erasure-sweep audit``: which bars of a direct logit attribution survive, on one's own prompts."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erasure_sweep.sweep.commands.options import debug_option, tracking_option

if TYPE_CHECKING:
    from rich.table import Table

    from erasure_sweep.sweep.audit import Audit
    from erasure_sweep.sweep.terminal.printed_table import Kind

_BAR = 12
"""Letters that the longest bar takes."""
_WIDE = 110
"""Columns of a terminal from which on intervals and who answers are shown."""


@click.command()
@click.argument("model")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt; again for more.")
@click.option(
    "--prompts",
    "prompt_set",
    metavar="FILE|TASK:N",
    help="JSON Lines or CSV (prompt, answer, against, corrupted), or ioi:N, greater-than:N, docstring:N, induction:N.",
)
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="TOKEN",
    help="What should follow; by default what the model says. Again for each --prompt.",
)
@click.option(
    "--against",
    "against",
    multiple=True,
    metavar="TOKEN",
    help="What its logit is set against; by default the likeliest other token.",
)
@click.option(
    "--pos", type=int, default=-1, show_default=True, metavar="N", help="The token behind which the model is asked."
)
@click.option(
    "--baseline",
    default="mean",
    show_default=True,
    metavar="KIND|FILE",
    help="What takes an ablated component's place: mean, resample, corrupted, zero, or its mean over a text file.",
)
@click.option(
    "--donors",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Texts that baseline resample draws from.",
)
@click.option("--bos/--no-bos", default=True, show_default=True, help="Whether texts begin with the tokenizer's BOS.")
@click.option("--together", metavar="L0H1+L0H2", help="Ablate these together as well: backups answer then.")
@click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="A finished sweep of this model, to be named beside the bars.",
)
@click.option("--experiment", metavar="E", help="The same from an MLflow experiment.")
@tracking_option
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page with the figures."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write everything as JSON.",
)
@debug_option
def audit(
    model: str,
    prompts: tuple[str, ...],
    prompt_set: str | None,
    answers: tuple[str, ...],
    against: tuple[str, ...],
    pos: int,
    baseline: str,
    donors: int | None,
    together: str | None,
    html: Path | None,
    json_file: Path | None,
    debug: bool,
    **rest: Any,
) -> None:
    """Audit direct logit attribution (DLA) of MODEL on prompts: which bars survive, and who cancels the others."""
    from erasure_sweep.sweep import audit as auditing
    from erasure_sweep.sweep.terminal.printing import console, print_line
    from erasure_sweep.workers.errors import UsageError
    from erasure_sweep.workers.printed_commands import command

    if bool(prompts) == (prompt_set is not None):
        raise UsageError("give --prompt TEXT, or --prompts FILE or TASK:N")
    if donors is not None and baseline != "resample":
        raise UsageError(f"--donors is of --baseline resample, and that is {baseline}")
    for path in (html, json_file):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"there is no folder {path.absolute().parent} to write {path.name} into")
    from erasure_sweep.workers.measures.audit.session import check_components  # it takes torch: behind what is refused

    held = auditing.hold(model)
    members = together.split("+") if together else []
    check_components(held.config.layout, members)
    found = auditing.audit(
        held,
        list(prompts) if prompt_set is None else auditing.prompt_set(prompt_set),
        _of_each(answers, "--answer", len(prompts)),
        _of_each(against, "--against", len(prompts)),
        pos,
        baseline,
        prepend_bos=rest.pop("bos"),
        donors=donors or auditing.DONORS,
        progress=_progress if sys.stderr.isatty() else None,
        **rest,
    )
    console.print(_table(found, wide=console.width >= _WIDE))
    print_line(found.sentence)
    if members:
        print_line(str(found.ablate(*members)).strip("<>"))
    for path, write in ((html, found.to_html), (json_file, found.to_json)):
        if path is not None:
            write(path)
            print_line(f"wrote {path}")
    if html is None:
        print_line(f"figures: {command(*sys.argv[1:], '--html', 'audit.html')}")


def _of_each(given: tuple[str, ...], flag: str, n: int) -> list[str] | None:
    """What belongs to each prompt."""
    from erasure_sweep.workers.errors import UsageError

    if not given:
        return None
    if len(given) != n:
        raise UsageError(f"there are {n} --prompt and {len(given)} {flag}: give one for each")
    return list(given)


def _progress(done: int, total: int) -> None:
    from erasure_sweep.sweep.terminal.printing import echo

    if total > 1:
        echo(f"\r{done}/{total} prompts{chr(10) if done == total else ''}", to_stderr=True, end=False)


def _table(found: Audit, wide: bool) -> Table:
    """The longest bars first, each with what arrives and who answers; on a narrow terminal without the latter."""
    from erasure_sweep.dashboards.audit.numbers import strongest_answer
    from erasure_sweep.dashboards.wording import interval, number
    from erasure_sweep.sweep.terminal.printed_table import printed_table

    view = found.view
    columns: dict[str, Kind] = {
        "component": "name",
        "DLA": "number",
        "": "name",
        "taken": "number",
        "arrives": "number",
    }
    if wide:
        columns["95 %"] = "name"
    columns["word"] = "name"
    if wide:
        columns["answered most by"] = "name"
    title = (
        f"{view.question}: {number(found.logit_difference)} logits, {view.n_prompts} prompt{'s' * (view.n_prompts > 1)}"
    )
    table = printed_table(title, columns)
    longest = max((abs(view.rows[name].dla) for name in view.shown), default=1.0) or 1.0
    for name in view.shown:
        row = view.rows[name]
        cells = [name, number(row.dla), bar(row.dla / longest, row.effect / longest)]
        cells += ["" if row.word is None else number(value) for value in (row.direct, row.effect)]
        cells += [interval(row.effect_low, row.effect_high)] if wide else []
        cells += [view.named(name).partition(" · ")[2]]
        cells += [strongest_answer(view, name) or ""] if wide else []
        table.add_row(*cells)
    rest = len(view.rows) - len(view.shown)
    table.caption = (
        "█ DLA, ● what arrives: how much the difference falls when the component is ablated. taken: the part of the bar that "
        f"goes then, which the word is of; ?: not settled. {f'{rest} more have small bars (--html, --json).' if rest else ''}"
    )
    table.caption_justify = "left"
    return table


def bar(dla: float, effect: float) -> str:
    """A bar to either side of zero, and a dot where the effect is; both as shares of the longest bar."""
    cells = [" "] * (2 * _BAR + 1)
    reach = round(_BAR * min(1.0, abs(dla)))
    for step in range(1, reach + 1):
        cells[_BAR + (step if dla > 0 else -step)] = "█"
    cells[_BAR] = "│"
    if math.isfinite(effect):
        cells[_BAR + round(_BAR * max(-1.0, min(1.0, effect)))] = "●"
    return "".join(cells)
