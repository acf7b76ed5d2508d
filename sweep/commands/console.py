"""What the commands print: the run with its progress and final table, the list of models, the dry run."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.driver import Sweep, SweepOutcome
from erasure_sweep.sweep.estimate import Estimate, estimate
from erasure_sweep.sweep.plan import n_rows
from erasure_sweep.sweep.progress import count, duration, reporter
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import MODEL_PAGE, RunFolder
from erasure_sweep.sweep.tracking.tracker import default_uri
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.models.catalog import NANDA_REPOS
from erasure_sweep.workers.storage.shard_storage import without_password
from erasure_sweep.workers.storage.whole_file import write_error
from erasure_sweep.workers.tables.facts.erasure import erased_writers
from erasure_sweep.workers.tables.facts.trust import trust_counts
from erasure_sweep.workers.tables.facts.verified import LATER, Verdict, verdicts
from erasure_sweep.workers.tables.files import read_tables

if TYPE_CHECKING:
    from erasure_sweep.sweep.export.export import Asked, Offer

PLAIN_WIDTH = 120
_OFFERED = 6
"""How many options of a choice are listed."""
console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def run(config: SweepConfig, *, fresh: bool, dry_run: bool) -> None:
    """Measure a sweep and show what came of it.

    Raises:
        SweepError: something was not measured or not logged.
    """
    if dry_run:
        _show_estimates(config)
        return
    progress = reporter(console)
    this_run = Run.of(config, fresh)
    try:
        with _logging_to(this_run.folder):
            outcome = Sweep(this_run, progress).measure()
    finally:
        progress.close()
    _show_outcome(config, outcome)
    if outcome.problems:
        raise SweepError(outcome.problems[-1])


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves short: what fails then is said once, by the run itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging names it
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _logging_to(folder: RunFolder) -> Iterator[None]:
    """Keep details, with the ids of shards, in OUT/run.log."""
    try:
        folder.out.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(folder.log, encoding="utf-8")
    except OSError as error:
        raise write_error(folder.out, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("erasure_sweep")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    except BaseException:
        logger.exception("the run ended before its time")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _show_outcome(config: SweepConfig, outcome: SweepOutcome) -> None:
    """The strongest writers of each model, what was verified of them, and where to look next."""
    finished = {
        entry["name"]: read_tables(outcome.folder.tables(entry["folder"]), _SHOWN)
        for entry in outcome.manifest["models"]
        if entry["state"] == "FINISHED"
    }
    scanned = {name: erased_writers(tables) for name, tables in finished.items() if "writers" in tables}
    if scanned:
        console.print(_writers_table({name: writers.head(config.top) for name, writers in scanned.items()}))
    if verified := {name: found for name, tables in finished.items() if (found := verdicts(tables))}:
        console.print(_verified_table(verified))
    for name, tables in finished.items():
        if counts := trust_counts(tables):
            said = ", ".join(f"{n} {word}" for word, n in counts.items())
            line = f"{name}: DLA beside what resampling does, of {count(sum(counts.values()), 'writer')}: {said}"
            console.print(line, markup=False, highlight=False)
    experiment = config.experiment or config.name
    logged = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    store = f" --tracking-uri {without_password(logged)}" if logged else ""
    out = outcome.folder.out
    for what, where in (
        ("side by side", outcome.folder.comparison),
        ("each model", f"{out}/MODEL/{MODEL_PAGE}"),
        ("tables", f"{out}/MODEL/tables/*.parquet"),
        ("MLflow", f"erasure-sweep ui --experiment {experiment}{store}"),
    ):
        console.print(f"{what:<14} {where}", highlight=False, markup=False, soft_wrap=True)


_SHOWN = ("writers", "eraser_group", "patched_residual_projection", "dla_correlation", "dla_trust")
"""The tables that the final lines are drawn from; all of a large sweep's would take much memory."""


def _writers_table(models: dict[str, pd.DataFrame]) -> Table:
    """What the scan says of the most erased writers."""
    table = _table(
        "Writers whose output later heads read and take back out",
        ("written", "remaining", "erased by reading", "DLA r", "DLA slope"),
        ("erasers",),
    )
    for model, writers in models.items():
        _add_writers(table, model, writers)
    return table


def _table(title: str, numbers: tuple[str, ...], words: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("model", "writer"):
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in words:
        table.add_column(heading, overflow="fold")
    return table


_PROMPTS = {True: "other prompts", False: "scanned prompts"}
"""On which prompts verify measured, by whether they are held out."""


def _verified_table(models: dict[str, list[Verdict]]) -> Table:
    """What verify says of its groups."""
    held_out = {bool(verdict.held_out) for found in models.values() for verdict in found}
    where = " and ".join(_PROMPTS[held] for held in sorted(held_out, reverse=True))
    table = _table(f"Verified on {where}", ("β of reading", "DLA slope", "presence"), ("verdict", "erasers"))
    table.caption = (
        "β: what the erasers write along the writer because they read it. Presence: the writer's median behind them → the "
        "same if they did not read it."
    )
    table.caption_justify = "left"
    for model, found in models.items():
        for index, verdict in enumerate(found):
            beta, presence = verdict.beta, verdict.presence
            table.add_row(
                escape(model) if index == 0 else "",
                verdict.group.writer,
                _number(beta.value) + ("" if math.isnan(beta.low) else f" ({beta.low:.2f}, {beta.high:.2f})"),
                _number(verdict.dla_slope),
                f"{_number(presence.clean)} → {_number(presence.patched)}",
                verdict.word or "–",
                "all later heads" if verdict.group.label == LATER else verdict.group.label.replace("+", " "),
            )
        table.add_section()
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _add_writers(table: Table, model: str, writers: pd.DataFrame) -> None:
    for index, row in enumerate(writers.to_dict("records")):
        numbers = (_number(row[name]) for name in ("written", "remaining", "erased_by_reading", "dla_r", "dla_slope"))
        heads = str(row["erasers"] or "–").replace("+", " ")
        table.add_row(escape(model) if index == 0 else "", row["writer"], *numbers, heads)
    if writers.empty:
        table.add_row(escape(model), "–", *[""] * 5, "no later heads read any writer")
    table.add_section()


def _show_estimates(config: SweepConfig) -> None:
    table = Table(title=f"What `run` would measure ({config.prompts} prompts × {config.seq_len} tokens)")
    headings = ("model", "shards of scan", "of verify", "writers in a shard", "time on one core", "memory of a worker")
    for heading in (*headings, "store on disk"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for found in estimate(config):
        counts = (found.shards, found.verify_shards, found.writers_per_shard)
        table.add_row(found.model, *map(str, counts), *_rounded(found))
    console.print(table)


def _rounded(found: Estimate) -> tuple[str, str, str]:
    return duration(found.core_seconds), f"{found.memory_bytes / 2**30:.1f} GiB", f"{found.store_bytes / 2**20:.0f} MiB"


def list_models(config: SweepConfig, check: bool) -> None:
    """Print every model that has a name here.

    Args:
        config: the prompts that the memory is for, and where models are staged.
        check: ask the hub for each of its models.
    """
    from erasure_sweep.sweep.commands.inventory import list_models as listed

    table = Table(title="Models that have a name", title_justify="left")
    words = ("name", "from", "checkpoints", "staged")
    headings = ("name", "from", "layers", "heads", "width", "checkpoints", "weights", "memory of a scan", "staged")
    for heading in (*headings, *(["to download"] if check else [])):
        table.add_column(heading, justify="left" if heading in words else "right")
    models = listed(config, check)
    for found in models:
        entry = found.entry
        shape = (str(value) for value in (entry.n_layers, entry.n_heads, entry.d_model))
        kept = str(entry.n_checkpoints) if entry.n_checkpoints else "–"
        checkpoints = "on the hub" if entry.location.startswith(NANDA_REPOS) else kept
        sizes = (f"{entry.weights_bytes / 1e6:,.0f} MB", f"{found.memory_bytes / 2**30:.1f} GiB")
        asked = (found.hub or "–",) if check else ()
        table.add_row(entry.name, entry.kind, *shape, checkpoints, *sizes, "yes" if found.staged else "no", *asked)
    console.print(table)
    for refusal in dict.fromkeys(found.refusal for found in models if found.refusal):
        console.print(refusal, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Memory: of one worker at {config.seq_len} tokens a prompt. Checkpoints: --model NAME@TOKENS, NAME@INDEX, NAME@all, "
        "NAME@log:8; of GPT-2 and its kin --model NAME@REVISION. Other names and repositories that TransformerLens boots, "
        "and directories in its or Hugging Face's layout, work as well where the trace agrees with it: --model NAME|DIR",
        highlight=False,
        markup=False,
    )


def fetch(config: SweepConfig, refresh: bool) -> None:
    """Stage everything that a sweep needs, and show what.

    Raises:
        SweepError: something cannot be had or does not fit.
    """
    from erasure_sweep.sweep.commands.inventory import fetch as stage

    progress = reporter(console)
    try:
        staged = stage(config, progress, refresh)
    finally:
        progress.close()
    table = Table(title="Staged", title_justify="left")
    for heading in ("model", "weights", "corpus", "prompts", "tokens each"):
        table.add_column(heading, justify="left" if heading in ("model", "corpus") else "right", overflow="fold")
    for model in staged.models:
        counts = (str(n_rows(model)), str(model.seq_len))
        table.add_row(escape(model.name), f"{model.weights_bytes / 1e6:,.1f} MB", escape(model.corpus), *counts)
    console.print(table)
    console.print(
        f"Staged in {staged.folder}: `erasure-sweep run` with the same config and --staging {staged.folder} (or "
        "ERASURE_SWEEP_STAGING) needs no network",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def compare(folders: list[Path], experiments: list[str], tracking_uri: str | None, to: Path) -> None:
    """Write one page on the models of several sweeps.

    Raises:
        UsageError: nothing is named, or a folder holds no sweep.
    """
    from erasure_sweep.sweep.comparison import compare_folders

    with _with_downloaded(folders, experiments, tracking_uri) as all_folders:
        left_out = compare_folders(all_folders, to)
    for line in (*left_out, f"wrote {to}"):
        _say(line)


def export(
    folders: list[Path],
    experiments: list[str],
    tracking_uri: str | None,
    asked: Asked,
    only_list: bool,
    *,
    to: Path | None,
    **how: Any,
) -> None:
    """Write figures as image files, or list them; ``how`` is what ``sweep.export.export.export`` takes.

    Raises:
        SweepError: as of ``sweep.export.export.export``.
    """
    from erasure_sweep.sweep.export import export

    if experiments and to is None and not only_list:
        raise UsageError("of an experiment say where the files go: --to DIR")
    with _with_downloaded(folders, experiments, tracking_uri) as all_folders:
        if only_list:
            console.print(_offers_table(export.offers(all_folders, asked)))
            return
        for line in export.export(all_folders, asked, to, lambda path: _say(f"wrote {path}"), **how):
            _say(line)


def _offers_table(offers: list[Offer]) -> Table:
    table = Table(title="Figures that `export` writes", title_justify="left")
    for heading in ("--figure", "what it shows", "--choose"):
        table.add_column(heading, no_wrap=heading == "--figure", overflow="fold")
    for offer in offers:
        shown = [
            f"{label}={' | '.join(options[:_OFFERED])}{' | …' if len(options) > _OFFERED else ''}"
            for label, options in offer.choices.items()
        ]
        table.add_row(escape(offer.key), escape(offer.title), escape("\n".join(shown)))
    return table


@contextmanager
def _with_downloaded(folders: list[Path], experiments: list[str], tracking_uri: str | None) -> Iterator[list[Path]]:
    """These folders, and those of the experiments' sweeps for as long as they are needed."""
    from erasure_sweep.sweep.tracking.downloads import download_experiment

    if not folders and not experiments:
        raise UsageError("name folders of finished sweeps (runs/demo) or MLflow experiments (--experiment demo)")
    with tempfile.TemporaryDirectory() as temporary:
        downloaded = [
            folder
            for i, name in enumerate(dict.fromkeys(experiments))
            for folder in download_experiment(tracking_uri or default_uri(), name, Path(temporary) / str(i))
        ]
        yield [*folders, *downloaded]


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
