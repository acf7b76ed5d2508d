"""Values on the command line that are more than text, with a line for what is none of them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click


class Positions(click.ParamType[int | str]):
    """``all`` or a number."""

    name = "all|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value != "all" and not str(value).isdecimal():
            self.fail(f"{value!r} is neither 'all' nor a number", param, ctx)
        return "all" if value == "all" else int(value)


class Age(click.ParamType[timedelta]):
    """A number of days or hours: ``30d``, ``12h``."""

    name = "30d|12h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"(\d{1,6})([dh])", str(value))
        if found is None:
            self.fail(f"{value!r} is no age: give days or hours, such as 30d or 12h", param, ctx)
        return timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])})


class Choice(click.ParamType[tuple[str, str]]):
    """A choice above a figure and one of its options: ``Outputs=means removed``."""

    name = "CHOICE=OPTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        label, separator, option = str(value).partition("=")
        if not (separator and label.strip() and option.strip()):
            self.fail(f"{value!r} is no choice of a figure: give one as --list shows it", param, ctx)
        return label, option
