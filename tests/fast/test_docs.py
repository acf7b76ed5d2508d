"""README and docs: they lead somewhere, their commands exist with their options, and their Python is Python."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from erasure_sweep.sweep.commands.main import cli
from erasure_sweep.sweep.config import build_config
from erasure_sweep.sweep.yaml_text import load_yaml
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 150
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")


def blocks(language: str) -> list[object]:
    """Fenced blocks of all pages that are in a language, each named after its page."""
    found = [
        (page, match[2])
        for page in PAGES
        for match in FENCED.finditer(page.read_text(encoding="utf-8"))
        if match[1] == language
    ]
    return [pytest.param(text, id=f"{page.stem}-{index}") for index, (page, text) in enumerate(found)]


def commands() -> Iterator[object]:
    """Every command of this project at the start of a line of a block; what has … or [ ] says a form, not a command."""
    for page in PAGES:
        lines = (line for match in FENCED.finditer(page.read_text(encoding="utf-8")) for line in match[2].splitlines())
        for line in lines:
            words = re.sub(r"^(\. \S+; )?(\.venv/bin/)?", "", line)
            if words.startswith("erasure-sweep ") and not re.search(r"\[|…|\||  \w[\w' ,]{9}", words.partition("#")[0]):
                yield pytest.param(words, id=f"{page.stem}-{words[14:50]}")


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("line", commands())
def test_commands_are_ones(line: str) -> None:
    """They are parsed as they stand, down to their options and what these take, and not carried out."""
    _, name, *rest = shlex.split(line, comments=True)
    command = cli.commands[name]
    with click.Context(cli, info_name="erasure-sweep") as parent:
        context = command.make_context(name, list(rest), parent=parent)
    assert not context.args


def test_there_are_commands() -> None:
    assert len(list(commands())) > 15


@pytest.mark.parametrize("text", blocks("python"))
def test_python_is_python(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_configs_are_read(text: str) -> None:
    build_config(load_yaml(text))


def test_the_site_is_built(tmp_path: Path) -> None:
    """A link to a page or a heading that is not there is an error."""
    site, environment = tmp_path / "site", {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(ROOT / ".ci" / "mkdocs.yml"), "-d", str(site)]
    built = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert built.returncode == 0, built.stderr
    assert len(list(site.glob("*.html"))) >= len(PAGES) - 1
