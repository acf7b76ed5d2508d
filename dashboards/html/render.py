"""Templates of the pages' HTML: everything that is put into one is escaped, but for what is ``Markup`` already."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import LAYER, Control, chosen_key, writers_of


def render(template: str, **values: object) -> Markup:
    """A template of ``dashboards/html/templates`` with these values."""
    return Markup(_environment().get_template(template).render(values))


@cache
def asset(name: str) -> Markup:
    """A style sheet or script of ``dashboards/html/assets``, to stand in the page as it is."""
    return Markup(_read("assets", name))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: _read("templates", name)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.globals.update(asset=asset, link=link, chosen_key=chosen_key, Control=Control, Home=Home, LAYER=LAYER)
    environment.filters["writers"] = writers_of
    environment.tests["control"] = lambda panel: isinstance(panel, Control)
    return environment


def _read(folder: str, name: str) -> str:
    return (resources.files("erasure_sweep.dashboards.html") / folder / name).read_text(encoding="utf-8")
