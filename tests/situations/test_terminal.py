"""Names and values that a terminal would obey"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bad_input import Bench, assert_refused
from tests.support.models.random_models import write_tl_directory

ESCAPES = "\x1b]0;owned\x07\x1b[2J"
"""Sets a terminal's title and clears its screen."""
OTHERS = "\x9b2J\u202egpj.exe"
"""Clears the screen on old terminals; turns what follows around."""


def assert_printable(text: str) -> None:
    bad = {
        char
        for char in text
        if (ord(char) < 0x20 and char not in "\t\n") or 0x7F <= ord(char) < 0xA0 or char in "\u202e"
    }
    assert not bad, bad


def test_escapes_in_values_and_flags(bench: Bench, out: Path):
    """A config or a flag that holds escape sequences of a terminal.

    The error shows them as characters; the terminal does not obey them.
    """
    path = out.parent / "mine.yaml"
    path.write_text(f"models: [{json.dumps(ESCAPES)}]\n")
    for arguments in (
        ["run", str(path), "--out", str(out)],
        ["run", "--model", f"./{OTHERS}", "--out", str(out)],
        ["run", f"{ESCAPES}{OTHERS}.yaml"],
        ["run", f"--{ESCAPES}"],
        ["compare", f"./{ESCAPES}"],
        ["stop", f"./{OTHERS}"],
    ):
        ran = bench.call(out, arguments)
        assert_refused(ran, 2)
        assert_printable(ran.stderr + ran.stdout)


def test_escapes_in_a_folders_name(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model, corpus and OUT whose folders' names hold control characters.

    Measured; terminal, log, pages and MLflow show the characters and obey none.
    """
    monkeypatch.setattr(bench, "pages", True)
    model = write_tl_directory(tmp_path / f"bad{OTHERS}", 0, 2, 2, 16)
    out = tmp_path / f"out{OTHERS}"
    ran = bench.run(out, model=model, prompts=8, top=1)
    assert ran.code == 0, ran.stderr
    assert_printable(ran.stdout + ran.stderr)
    assert_printable((out / "run.log").read_text())
    (name,) = (name for name in ran.runs if "bad" in name)
    assert_printable(name)
    pages = "".join(page.read_text() for page in out.rglob("*.html"))
    assert OTHERS not in pages and "bad\ufffd2J\ufffdgpj.exe" in pages


def test_escapes_in_a_models_own_files(bench: Bench, out: Path, tmp_path: Path):
    """A model whose config.json holds escape sequences.

    The line that refuses it shows them.
    """
    model = write_tl_directory(tmp_path / "model", 0, 2, 2, 16)
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(values | {"act_fn": ESCAPES}))
    ran = bench.run(out, "--debug", model=model)
    assert ran.code == 1
    assert_printable(ran.stderr + ran.stdout)
