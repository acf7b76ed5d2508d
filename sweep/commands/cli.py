"""The command line. Heavy imports stand inside the handlers, so that ``--help`` answers at once.

Exit codes: 0 everything was measured, 1 something failed (the last line of stderr says what), 2 a usage or config error
(one line), 130 interrupted and resumable.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from erasure_sweep.sweep.commands.option_types import Age, Choice, Positions
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.version import VERSION

INTERRUPTED = 130
_AGAIN_S = 0.05
_EXIT_S = 3.0
_interrupted = threading.Event()


def _config_options(*left_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags that set keys of the config, but for some; those not given leave the preset's or file's value."""
    options = {
        "models": click.option("--model", "models", multiple=True, metavar="NAME|DIR", help="A model; again for more."),
        "corpus": click.option("--corpus", metavar="NAME|FILE|DIR", help="What the models read."),
        "prompts": click.option("--prompts", type=int, metavar="N", help="How many prompts."),
        "seq_len": click.option("--seq-len", type=int, metavar="N", help="Tokens of each prompt."),
        "positions": click.option("--positions", type=Positions(), help="Measured positions of each prompt."),
        "seed": click.option("--seed", type=int, metavar="N", help="Seed of everything drawn."),
        "stage": click.option(
            "--stage",
            type=click.Choice(["scan", "verify", "all"]),
            help="Every component as a writer, or few of them closely, or both.",
        ),
        "writers": click.option(
            "--writer", "writers", multiple=True, metavar="L0H2", help="A writer to verify; again for more."
        ),
        "erasers": click.option(
            "--erasers", metavar="L2H2+L2H3", help="Later heads, measured together as erasers of --writer."
        ),
        "ln": click.option("--ln", type=click.Choice(["frozen", "recompute"]), help="LayerNorm scale under the patch."),
        "top": click.option(
            "--top", type=int, metavar="N", help="How many writers are verified and shown in the final table."
        ),
        "workers": click.option(
            "--workers", type=int, metavar="N", help="Worker processes; 0 measures in this process."
        ),
        "max_workers": click.option(
            "--max-workers", type=int, metavar="N", help="At most so many; a cluster may start machines for them."
        ),
        "device": click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where models run."),
        "dtype": click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision."),
        "batch": click.option("--batch", type=int, metavar="N", help="Prompts in one forward pass."),
        "ray_address": click.option("--ray-address", metavar="A", help="A running Ray cluster."),
        "out": click.option("--out", metavar="DIR", help="Folder for tables, figures and pages."),
        "store": click.option("--store", metavar="DIR|URI", help="Folder or s3://… for finished shards."),
        "staging": click.option("--staging", metavar="DIR", help="Folder for processed weights and token arrays."),
        "tracking_uri": click.option("--tracking-uri", metavar="URI", help="MLflow tracking store."),
        "experiment": click.option("--experiment", metavar="NAME", help="MLflow experiment."),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for key, option in options.items() if key not in left_out]):
            command = option(command)
        return command

    return decorate


def _load(source: str, flags: dict[str, Any]) -> Any:
    from erasure_sweep.sweep.config import load_config

    lists = {key: flags.pop(key) or None for key in ("models", "writers")}
    return load_config(source, {**flags, **{key: list(value) if value else None for key, value in lists.items()}})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=False)
@click.version_option(VERSION, package_name="erasure-sweep")
def cli() -> None:
    """Measure which components of language models erase what earlier ones wrote."""


@cli.command()
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@_config_options()
@click.option("--fresh", is_flag=True, help="Measure anew instead of going on from what is stored.")
@click.option("--dry-run", is_flag=True, help="Print models, shards, estimated time, memory and disk; measure nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def run(source: str, fresh: bool, dry_run: bool, debug: bool, **flags: Any) -> None:
    """Measure a sweep. Without arguments: the bundled models, offline."""
    from erasure_sweep.sweep.commands import console

    console.run(_load(source, flags), fresh=fresh, dry_run=dry_run)


@cli.command()
@click.option("--model", metavar="NAME|DIR", help="A model in place of gelu-4l.")
@_config_options("models", "stage", "writers", "erasers", "ln", "top", "seed")
@click.option("--fresh", is_flag=True, help="Measure anew instead of going on from what is stored.")
@click.option("--dry-run", is_flag=True, help="Print shards, estimated time, memory and disk; measure nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def replicate(model: str | None, fresh: bool, dry_run: bool, debug: bool, **flags: Any) -> None:
    """Measure what the paper published, number by number."""
    from erasure_sweep.sweep.replication.replicate import replicate as measure

    measure({**flags, "models": [model] if model else None}, fresh=fresh, dry_run=dry_run)


@cli.command()
@click.option("--check", is_flag=True, help="Ask the Hugging Face hub for each of its models.")
@click.option("--seq-len", type=int, metavar="N", help="Tokens of each prompt, for the memory of a scan.")
@click.option("--staging", metavar="DIR", help="Folder for processed weights and token arrays.")
def models(check: bool, seq_len: int | None, staging: str | None) -> None:
    """List the models that have a name here."""
    from erasure_sweep.sweep.commands import console
    from erasure_sweep.sweep.config import load_config

    console.list_models(load_config("demo", {"seq_len": seq_len, "staging": staging}), check)


@cli.command()
@click.argument("source", metavar="PRESET|CONFIG.yaml")
@_config_options(
    *("device", "workers", "max_workers", "batch", "ray_address", "out", "store", "tracking_uri", "experiment")
)
@click.option("--refresh", is_flag=True, help="Ask the hub for what is staged as well.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def fetch(source: str, refresh: bool, debug: bool, **flags: Any) -> None:
    """Stage everything a sweep needs, so that it runs without a network."""
    from erasure_sweep.sweep.commands import console

    console.fetch(_load(source, flags), refresh)


_address = click.option("--address", metavar="A", help="A cluster's dashboard: http://HOST:8265.")


@cli.command()
@click.argument("source", metavar="PRESET|CONFIG.yaml")
@_address
@click.option("--no-wait", is_flag=True, help="Do not follow what it prints.")
@_config_options("ray_address")
@click.option("--fresh", is_flag=True, help="Measure anew instead of going on from what is stored.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def submit(source: str, address: str | None, no_wait: bool, fresh: bool, debug: bool, **flags: Any) -> None:
    """Measure a sweep on a Ray cluster, as a job on its head."""
    from erasure_sweep.sweep.jobs import submission as jobs

    jobs.submit(_load(source, flags), address, fresh=fresh, wait=not no_wait)


@cli.command()
@click.argument("what", required=False, metavar="[OUT|JOB]")
@_address
def status(what: str | None, address: str | None) -> None:
    """Show how a run or a job stands; without a name all runs below runs/, or a cluster's jobs."""
    if _is_out(what) or (what is None and address is None):
        from erasure_sweep.sweep.jobs import local_runs as runs

        runs.status(None if what is None else Path(what))
    else:
        from erasure_sweep.sweep.jobs import submission as jobs

        jobs.status(what, address)


@cli.command()
@click.argument("what", metavar="OUT|JOB")
@_address
def stop(what: str, address: str | None) -> None:
    """End a run or a job; what it measured is kept."""
    if _is_out(what):
        from erasure_sweep.sweep.jobs import local_runs as runs

        runs.stop(Path(what))
    else:
        from erasure_sweep.sweep.jobs import submission as jobs

        jobs.stop(what, address)


def _is_out(what: str | None) -> bool:
    """Whether a run's folder is meant; any other name is a job's."""
    left = ("manifest.json", ".driver.json", ".store")
    return what is not None and ("/" in what or any((Path(what) / name).exists() for name in left))


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]...")
@click.option("--store", "stores", multiple=True, metavar="DIR|URI", help="A --store, all its sweeps; again for more.")
@click.option("--staged", is_flag=True, help="Staged weights and token arrays.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only of this sweep, model or corpus.")
@click.option("--older-than", type=Age(), help="Only what was last used so long ago.")
@click.option("--staging", metavar="DIR", help="Folder for processed weights and token arrays.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def clean(
    folders: tuple[Path, ...],
    stores: tuple[str, ...],
    staged: bool,
    names: tuple[str, ...],
    older_than: timedelta | None,
    staging: str | None,
    dry_run: bool,
    debug: bool,
) -> None:
    """Remove finished shards and staged files that nobody needs any more; tables and pages stay."""
    from erasure_sweep.sweep.cleaning.clean import clean as remove

    remove(list(folders), list(stores), staged, list(names), older_than, staging, dry_run)


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]...")
@click.option("--experiment", "experiments", multiple=True, metavar="E", help="An MLflow experiment; again for more.")
@click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@click.option("--to", default=Path("compare.html"), type=click.Path(path_type=Path), help="The page to write.")
def compare(folders: tuple[Path, ...], experiments: tuple[str, ...], tracking_uri: str | None, to: Path) -> None:
    """Put the models of several sweeps side by side on one page."""
    from erasure_sweep.sweep.commands import console

    console.compare(list(folders), list(experiments), tracking_uri, to)


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]...")
@click.option("--experiment", "experiments", multiple=True, metavar="E", help="An MLflow experiment; again for more.")
@click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@click.option("--figure", "figures", multiple=True, metavar="KEY", help="A figure, as --list names it; again for more.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model; again for more. By default all.")
@click.option("--writer", "writers", multiple=True, metavar="L0H2", help="Figures of this writer; again for more.")
@click.option("--choose", "choices", multiple=True, type=Choice(), help="Figures as this choice shows them.")
@click.option("--format", "form", type=click.Choice(["svg", "png", "pdf"]), default="svg", show_default=True)
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write below; by default OUT.")
@click.option("--width", type=click.IntRange(100, 10_000), metavar="PX", help="Width of each figure in pixels.")
@click.option(
    "--scale", type=click.FloatRange(0.1, 20), metavar="N", help="Of the image; by default 3 for png, else 1."
)
@click.option("--list", "only_list", is_flag=True, help="Print figures and their choices; write nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export(
    folders: tuple[Path, ...],
    experiments: tuple[str, ...],
    tracking_uri: str | None,
    figures: tuple[str, ...],
    models: tuple[str, ...],
    writers: tuple[str, ...],
    choices: tuple[tuple[str, str], ...],
    only_list: bool,
    debug: bool,
    **how: Any,
) -> None:
    """Write figures of finished sweeps as image files for papers."""
    from erasure_sweep.sweep.commands import console
    from erasure_sweep.sweep.export.export import Asked

    asked = Asked(figures, models, writers, choices)
    console.export(list(folders), list(experiments), tracking_uri, asked, only_list, **how)


@cli.command()
@click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@click.option("--experiment", default=None, metavar="NAME", help="Open on this experiment.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on loopback.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--no-browser", is_flag=True, help="Open no browser, only say where the pages are.")
def ui(tracking_uri: str | None, experiment: str | None, port: int, host: str, no_browser: bool) -> None:
    """Browse the logged runs in MLflow's UI."""
    from erasure_sweep.sweep.tracking.tracker import default_uri
    from erasure_sweep.sweep.tracking.ui_server import serve

    sys.exit(serve(tracking_uri or default_uri(), port, host, experiment, show_browser=not no_browser))


@cli.command()
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@_config_options()
@click.option("--reference", is_flag=True, help="Print the reference of keys instead.")
def config(source: str, reference: bool, **flags: Any) -> None:
    """Print the resolved config as YAML, or the reference of its keys."""
    import yaml

    from erasure_sweep.sweep.config import reference as reference_page

    if reference:
        click.echo(reference_page())
    else:
        click.echo(yaml.safe_dump(_load(source, flags).model_dump(exclude_none=True), sort_keys=False).rstrip())


def _interrupt(signum: int, frame: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that falls into a destructor is dropped by Python: raise it again, a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error a user meets is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, _interrupt)
    sys.unraisablehook = _unraisable
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no τ is no reason to fail
    code = _guarded(arguments)
    if code == INTERRUPTED:
        _end_soon(code)
    sys.exit(code)


def _end_soon(code: int) -> None:
    """Python waits for threads of libraries on its way out, and one that sends to a server that hangs would keep it."""
    sys.stdout.flush()
    end = threading.Timer(_EXIT_S, os._exit, (code,))
    end.daemon = True
    end.start()


def _guarded(arguments: list[str]) -> int:
    _interrupted.clear()  # what ended an earlier command of this process does not end this one
    try:
        cli(arguments, prog_name="erasure-sweep", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return _end_interrupted()
    except BrokenPipeError:
        # Whoever read this has gone; so that Python does not try to flush to them on its way out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SweepError.exit_code
    except Exception as error:  # noqa: BLE001 the last line of defence: users get a line, --debug the traceback
        if "--debug" in arguments:
            traceback.print_exc()
        # Libraries turn an interrupt that falls into them into errors of their own.
        return _end_interrupted() if _interrupted.is_set() and not _says_so(error) else _end_failed(error)
    return 0


def _says_so(error: Exception) -> bool:
    """Whether an error is about the interrupt itself."""
    return isinstance(error, SweepError) and error.exit_code == INTERRUPTED


def _end_interrupted() -> int:
    _say("interrupted; the same command goes on from here")
    return INTERRUPTED


def _end_failed(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "erasure-sweep"
        _say(f"{error.format_message().rstrip('.')} (see `{command} --help`)")
        return UsageError.exit_code
    if isinstance(error, SweepError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, BrokenExecutor):
        _say("a helper process was ended from outside, most likely because memory ran out: free some, then run again")
        return SweepError.exit_code
    _say(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
    return SweepError.exit_code


def _say(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    click.echo(f"erasure-sweep: {' '.join(message.split())}", err=True)


if __name__ == "__main__":
    main()
