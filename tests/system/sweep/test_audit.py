"""Audits as people make them: in a notebook, on the command line, beside a sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import erasure_sweep
from erasure_sweep.sweep.audit import audit
from erasure_sweep.sweep.commands.main import call
from erasure_sweep.workers.errors import DataError, UsageError
from tests.support.bad_input import D_VOCAB, Bench, Ran

CODE = "def add(self, name):\n        self.name ="


def test_in_a_notebook(tmp_path: Path) -> None:
    found = erasure_sweep.audit("toy-gelu-2l", CODE, " name", " self")
    table = found.table.set_index("component")
    assert found.table.attrs["units"]["dla"] == "logit" and found.table.attrs["units"]["share_low"] == "ratio"
    assert table["dla"].sum() == pytest.approx(found.logit_difference, abs=1e-4)
    assert found.view.question == "logit of ' name' − ' self'"
    sums = found.mediation.groupby("component")["mediated"].sum()
    np.testing.assert_allclose(table["effect"][sums.index], table["direct"][sums.index] + sums, atol=1e-4)
    for figure in (
        found.figure(),
        found.scatter(),
        found.lens(),
        found.waterfall("L0H1"),
        found.patterns("L1H3", "L0H0"),
    ):
        assert figure.data
    assert "plotly" in found._repr_html_()
    together = found.ablate("L0H0", "L0H1")
    assert together.alone == pytest.approx(table["effect"]["L0H0"] + table["effect"]["L0H1"])
    assert found.ablate("L0H0").effect == pytest.approx(table["effect"]["L0H0"], abs=1e-5)
    assert str(found.to_html()).startswith("<!DOCTYPE html>")
    found.to_json(tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(found.to_json() or "")


def test_a_narrow_terminal_keeps_its_numbers_whole() -> None:
    from erasure_sweep.sweep.commands.audit import _table
    from erasure_sweep.sweep.terminal.printing import PrintableConsole

    console = PrintableConsole(width=80)
    with console.capture() as captured:
        console.print(_table(audit("toy-gelu-2l", CODE), wide=False))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("│ L") for line in lines) >= 7
    assert all(line.count("│") >= 7 for line in lines if line.startswith("│"))


def test_a_name_can_be_held() -> None:
    held = erasure_sweep.hold("toy-gelu-2l")
    again = audit(held, [[5, 6, 7]], 3, 4).table["effect"].to_numpy(float)
    np.testing.assert_array_equal(again, audit("toy-gelu-2l", [5, 6, 7], [3], [4]).table["effect"].to_numpy(float))


def test_what_is_not_there_is_named() -> None:
    found = audit("toy-gelu-2l", CODE)
    for asked, said in (
        (lambda: found.waterfall("L9H0"), "no component 'L9H0'"),
        (lambda: found.waterfall("b_O0"), "no component 'b_O0' was ablated"),
        (lambda: found.patterns("MLP0"), "no head 'MLP0'"),
        (lambda: found.patterns("L0H0", prompt=1), "no prompt 1"),
        (found.ablate, "no component is named"),
        (lambda: found.ablate("L0H0", "b_O0"), "no component 'b_O0'"),
        (lambda: audit("toy-gelu-2l", CODE, baseline="mode"), "no baseline 'mode'"),
        (lambda: audit("toy-gelu-2l", CODE, baseline="corrupted"), "prompt 1 has no corrupted prompt"),
        (lambda: audit("toy-gelu-2l", CODE, baseline="resample", donors=1), "needs two donors"),
        (lambda: audit("toy-gelu-2l", CODE, " unbelievably"), "tokens ("),
        (lambda: audit("toy-gelu-9l", CODE), "toy-gelu-9l"),
    ):
        with pytest.raises(UsageError, match="") as error:
            asked()
        assert said in str(error.value)


def test_it_imports_neither_ray_nor_mlflow() -> None:
    erasure_sweep.hold("toy-gelu-2l")  # what converts weights, once, needs more
    code = (
        "import sys, erasure_sweep; erasure_sweep.audit('toy-gelu-2l', 'a b c').to_html();"
        "print([name for name in ('ray', 'mlflow', 'transformers', 'transformer_lens') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "audit",
        "toy-gelu-2l",
        "--prompt",
        CODE,
        "--answer",
        " name",
        "--against",
        " self",
        "--together",
        "L0H0+L0H1",
    ]
    page, numbers = tmp_path / "a.html", tmp_path / "a.json"
    assert call([*asked, "--html", str(page), "--json", str(numbers)]) == 0
    said = capsys.readouterr().out
    assert "logit of ' name' − ' self'" in said and "what ablating takes arrives" in said
    assert "L0H0 + L0H1 ablated at once" in said
    assert "Which bars to believe" in page.read_text()
    assert json.loads(numbers.read_text())["baseline"] == "mean"


def test_sets_and_references_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.csv").write_text(
        'prompt,answer,against\n"def f(self):", return, name\n"for name in", self, name\n'
    )
    (tmp_path / "text.txt").write_text("import os\nfor name in os.environ:\n    print(name)\n" * 20)
    asked = ["audit", "toy-gelu-2l", "--prompts", str(tmp_path / "set.csv"), "--json", str(tmp_path / "a.json")]
    assert call([*asked, "--baseline", str(tmp_path / "text.txt")]) == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["prompts"]) == 2
    assert call(["audit", "toy-gelu-2l", "--prompts", "induction:4", "--baseline", "corrupted"]) == 0
    assert "4 prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --prompt TEXT, or --prompts"),
        (["--prompt", "a b", "--prompts", "ioi:3"], "give --prompt TEXT, or --prompts"),
        (["--prompt", "a b", "--prompt", "c d", "--answer", " x"], "there are 2 --prompt and 1 --answer"),
        (["--prompts", "no/such.csv"], "there is no set of prompts at no/such.csv"),
        (["--prompts", "ioi:4"], "single tokens"),
        (["--prompt", "a b", "--baseline", "mode"], "there is no baseline 'mode'"),
        (["--prompt", "a b", "--pos", "0"], "position 0 sees no other token"),
        (["--prompt", ""], "prompt 1 is empty"),
        (["--prompt", "a b", "--donors", "4"], "--donors is of --baseline resample"),
        (["--prompt", "a b", "--html", "no/such/page.html"], "there is no folder"),
        (["--prompt", "a b", "--together", "L0H0+L9H9"], "has no component 'L9H9'"),
        (["--prompt", "a b", "--baseline", "corrupted"], "has no corrupted prompt, which this baseline is of: give"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["audit", "toy-gelu-2l", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_beside_a_sweep_of_the_model(bench: Bench, measured: Ran, tmp_path: Path) -> None:
    out = bench.root / "measured" / "out"
    tokens = np.random.default_rng(0).integers(0, D_VOCAB, 8).tolist()
    found = audit(str(bench.model), tokens, baseline="zero", sweep=out)
    assert all(value.startswith("On ") for value in found.view.known.values())
    name = measured.out.parent.name
    logged = audit(bench.model, tokens, baseline="zero", experiment=name, tracking_uri=bench.tracking_uri)
    assert logged.view.known == found.view.known
    with pytest.raises(UsageError, match="has no model with these weights"):
        audit("toy-gelu-2l", CODE, sweep=out)
    with pytest.raises(DataError, match="is not the folder of a finished sweep"):
        audit("toy-gelu-2l", CODE, sweep=tmp_path)
