"""The command line. Heavy imports stand inside the handlers, so that ``--help`` answers at once.

Exit codes: 0 everything was measured, 1 something failed (the last line of stderr says what), 2 a usage or config error
(one line), 130 interrupted and resumable.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from workers.errors import SweepError, UsageError

INTERRUPTED = 130


class _Positions(click.ParamType[int | str]):
    """``all`` or a number."""

    name = "all|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "all" or isinstance(value, int):
            return value
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither 'all' nor a number", param, ctx)
        return int(value)


def _config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that set keys of the config; those not given leave the preset's or file's value."""
    options = [
        click.option("--model", "models", multiple=True, metavar="NAME|DIR", help="A model; again for more."),
        click.option("--corpus", metavar="NAME|FILE|DIR", help="What the models read."),
        click.option("--prompts", type=int, metavar="N", help="How many prompts."),
        click.option("--seq-len", type=int, metavar="N", help="Tokens of each prompt."),
        click.option("--positions", type=_Positions(), help="Measured positions of each prompt."),
        click.option("--seed", type=int, metavar="N", help="Seed of everything drawn."),
        click.option("--stage", type=click.Choice(["scan"]), help="What to measure."),
        click.option(
            "--writer", "writers", multiple=True, metavar="L0H2", help="A writer that --erasers is named for."
        ),
        click.option("--erasers", metavar="L2H2+L2H3", help="Later heads, measured together as erasers of --writer."),
        click.option("--ln", type=click.Choice(["frozen", "recompute"]), help="LayerNorm scale under the patch."),
        click.option("--top", type=int, metavar="N", help="Writers that figures and the final table show."),
        click.option("--workers", type=int, metavar="N", help="Worker processes; 0 measures in this process."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where models run."),
        click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision."),
        click.option("--batch", type=int, metavar="N", help="Prompts in one forward pass."),
        click.option("--ray-address", metavar="A", help="A running Ray cluster."),
        click.option("--out", metavar="DIR", help="Folder for tables, figures and pages."),
        click.option("--store", metavar="DIR", help="Folder for finished shards."),
        click.option("--tracking-uri", metavar="URI", help="MLflow tracking store."),
        click.option("--experiment", metavar="NAME", help="MLflow experiment."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _load(source: str, flags: dict[str, Any]) -> Any:
    from sweep.config import load_config

    lists = {key: flags.pop(key) or None for key in ("models", "writers")}
    return load_config(source, {**flags, **{key: list(value) if value else None for key, value in lists.items()}})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="erasure-sweep")
def cli() -> None:
    """Measure which components of language models erase what earlier ones wrote."""


@cli.command()
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@_config_options
@click.option("--fresh", is_flag=True, help="Measure anew instead of going on from what is stored.")
@click.option("--dry-run", is_flag=True, help="Print models, shards, estimated time, memory and disk; measure nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def run(source: str, fresh: bool, dry_run: bool, debug: bool, **flags: Any) -> None:
    """Measure a sweep. Without arguments: the bundled models, offline."""
    from sweep import console

    console.run(_load(source, flags), fresh=fresh, dry_run=dry_run)


@cli.command()
def models() -> None:
    """List the models that have a name here."""
    from sweep import console

    console.list_models()


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUT]...")
@click.option("--experiment", "experiments", multiple=True, metavar="E", help="An MLflow experiment; again for more.")
@click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@click.option("--to", default=Path("compare.html"), type=click.Path(path_type=Path), help="The page to write.")
def compare(folders: tuple[Path, ...], experiments: tuple[str, ...], tracking_uri: str | None, to: Path) -> None:
    """Put the models of several sweeps side by side on one page."""
    from sweep import console

    console.compare(list(folders), list(experiments), tracking_uri, to)


@cli.command()
@click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@click.option("--experiment", default=None, metavar="NAME", help="Open on this experiment.")
@click.option("--port", default=5000, show_default=True, help="Port on loopback.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def ui(tracking_uri: str | None, experiment: str | None, port: int, host: str) -> None:
    """Browse the logged runs in MLflow's UI."""
    from sweep.tracking import default_uri
    from sweep.ui import serve

    sys.exit(serve(tracking_uri or default_uri(), port, host, experiment))


@cli.command()
@click.argument("source", default="demo", metavar="[PRESET|CONFIG.yaml]")
@_config_options
@click.option("--reference", is_flag=True, help="Print the reference of keys instead.")
def config(source: str, reference: bool, **flags: Any) -> None:
    """Print the resolved config as YAML, or the reference of its keys."""
    import yaml

    from sweep.config import reference as reference_page

    if reference:
        click.echo(reference_page())
    else:
        click.echo(yaml.safe_dump(_load(source, flags).model_dump(exclude_none=True), sort_keys=False).rstrip())


def _on_sigterm(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error a user meets is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        cli(arguments, prog_name="erasure-sweep", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"erasure-sweep: {error.format_message()}", err=True)
        return UsageError.exit_code
    except SweepError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"erasure-sweep: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("erasure-sweep: interrupted; the same command goes on from here", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 the last line of defence: users get a line, --debug the traceback
        if debug:
            traceback.print_exc()
        click.echo(f"erasure-sweep: unexpected {type(error).__name__}: {error} (--debug shows where)", err=True)
        return SweepError.exit_code
    return 0


if __name__ == "__main__":
    main()
