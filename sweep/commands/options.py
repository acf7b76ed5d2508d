"""Options of the commands: those that set keys of the config, made from its fields, and types of others.

A config field marked with ``Flag`` is an option of every command that takes a config. Type, choices and help are the
field's own, so that a new key needs one place. What a value may be is checked by the config, whose error names key, value
and what is allowed.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from erasure_sweep.sweep.config import Flag, SweepConfig

debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")
fresh_option = click.option("--fresh", is_flag=True, help="Measure anew instead of going on from what is stored.")
staging_option = click.option("--staging", metavar="DIR", help="Folder for processed weights and token arrays.")
tracking_option = click.option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
address_option = click.option("--address", metavar="A", help="A cluster's dashboard: http://HOST:8265.")


class ConfigCommand(click.Command):
    """A command whose options set keys of the config; those not given leave the preset's or file's value.

    They are made when they are first asked for: the list of commands needs no pydantic.

    Args:
        left_out: keys that this command does not take.
    """

    def __init__(self, *args: Any, left_out: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._left_out = left_out

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Arguments first, then options of the config, then the command's own."""
        own = super().get_params(ctx)
        arguments = [param for param in own if isinstance(param, click.Argument)]
        options = [option for key, option in config_options().items() if key not in self._left_out]
        return [*arguments, *options, *(param for param in own if param not in arguments)]


@cache
def config_options() -> dict[str, click.Option]:
    """An option for every field of the config that is marked with ``Flag``, by key."""
    from erasure_sweep.sweep.config import SweepConfig, flags

    fields = SweepConfig.model_fields
    spellings = {key: flag.spelling or f"--{key.replace('_', '-')}" for key, flag in flags().items()}
    return {key: _option(key, fields[key], flag, spellings) for key, flag in flags().items()}


def _option(key: str, field: FieldInfo, flag: Flag, spellings: dict[str, str]) -> click.Option:
    several = get_origin(field.annotation) is list
    help_text = _help(field.description or "", spellings)
    if several:
        help_text = f"{help_text.removesuffix('.')}; again for more."
    words, kinds = _allowed(field.annotation)
    kind: click.ParamType[Any] | type
    if words and kinds:
        kind, metavar = WordOrNumber(words), f"{'|'.join(words)}|N"
    elif words:
        kind, metavar = click.Choice(words), None
    else:
        (kind,) = kinds
        metavar = "N" if kind is int else None
    return click.Option(
        [spellings[key], key], type=kind, multiple=several, metavar=flag.metavar or metavar, help=help_text
    )


def _help(description: str, spellings: dict[str, str]) -> str:
    """A field's docstring as the command line says it: keys in backticks by their flags."""
    return re.sub(r"`(\w+)`", lambda quoted: spellings.get(quoted[1], quoted[0]), " ".join(description.split()))


def _allowed(annotation: Any) -> tuple[list[str], list[type]]:
    """The words that a value may be, and the types that it may have otherwise; of a list, its items."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [str(word) for word in arguments], []
    if origin is Annotated:
        arguments = arguments[:1]
    elif origin is None:
        return [], [] if annotation is NoneType else [annotation]
    found = [_allowed(argument) for argument in arguments]
    return [word for words, _ in found for word in words], [kind for _, kinds in found for kind in kinds]


def load(source: str, flags: dict[str, Any]) -> SweepConfig:
    """The config of a preset or file with the options of the command line on top."""
    from erasure_sweep.sweep.config import load_config, preset_names
    from erasure_sweep.sweep.terminal.printing import echo
    from erasure_sweep.workers.name_clashes import passed_over

    line = passed_over(source, "a preset") if source in preset_names() and Path(source).is_file() else None
    if line is not None:
        echo(line, to_stderr=True)
    given = {key: list(value) or None if isinstance(value, tuple) else value for key, value in flags.items()}
    return load_config(source, given)


class WordOrNumber(click.ParamType[int | str]):
    """One of some words, or a number.

    Args:
        words: the words.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.name = f"{'|'.join(words)}|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value in self.words:
            return str(value)
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither {' nor '.join(map(repr, self.words))} nor a number", param, ctx)
        return int(value)


class Age(click.ParamType[timedelta]):
    """A number of days or hours: ``30d``, ``12h``."""

    name = "30d|12h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"(\d{1,6})([dh])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age: give days or hours, such as 30d or 12h", param, ctx)
        return timedelta(**{"days" if match[2] == "d" else "hours": int(match[1])})


class FigureChoice(click.ParamType[tuple[str, str]]):
    """A choice above a figure and one of its options: ``Outputs=means removed``."""

    name = "CHOICE=OPTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        label, separator, option = str(value).partition("=")
        if not (separator and label.strip() and option.strip()):
            self.fail(f"{value!r} is no choice of a figure: give one as --list shows it", param, ctx)
        return label, option
