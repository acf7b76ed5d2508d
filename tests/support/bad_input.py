"""Runs the command line as a user would, and says what a run left behind: for tests of what goes wrong.

``Bench`` calls the command line in this process, with one real background process for all its runs; ``command`` is the
same run for a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.dashboards.wording import measured_line
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.measures.registry import table_names
from tests.support.helper_process import lending
from tests.support.models.random_models import write_tl_directory
from tests.support.tracking_stores import place_store

PROMPTS, SEQ_LEN, D_VOCAB = 16, 16, 97


class Ran(NamedTuple):
    """How a run ended and what it left."""

    code: int
    stdout: str
    stderr: str
    out: Path
    states: dict[str, str]
    """State by model, of the manifest; empty without one."""
    runs: dict[str, str]
    """Status by name, of the experiment's runs in MLflow."""

    @property
    def line(self) -> str:
        """The last line on stderr."""
        return (self.stderr.splitlines() or [""])[-1]

    def tables(self) -> dict[str, bytes]:
        """Contents of every table, by path below OUT."""
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in self.out.rglob("*.parquet")}

    def shards(self) -> list[Path]:
        """Files of the store."""
        return sorted(self.out.rglob("*.state"))


class Bench:
    """Models, tokens, an MLflow store, and runs on them.

    Args:
        root: a folder of its own.
        background: a helper process that its runs in this process share with others; by default one of its own.
        pages: draw them in runs in this process; by default there are pages that hold nothing.
    """

    def __init__(self, root: Path, pages: bool = False, background: HelperProcess | None = None) -> None:
        self.root, self.pages = root, pages
        self.model = write_tl_directory(root / "good", 0, 2, 2, 16)
        self.tokens = root / "tokens.npy"
        np.save(self.tokens, np.random.default_rng(0).integers(0, D_VOCAB, (PROMPTS, SEQ_LEN)))
        self.tracking_uri = place_store(root / "mlflow.db")
        self._own = HelperProcess() if background is None else None
        self.background = self._own or background

    def flags(self, out: Path, **changes: object) -> list[str]:
        """Flags of a run that would go well; a change to None leaves a flag out."""
        values: dict[str, object] = {
            "model": self.model,
            "corpus": self.tokens,
            "prompts": PROMPTS,
            "seq_len": SEQ_LEN,
            "workers": 0,
            "out": out,
            "tracking_uri": self.tracking_uri,
            "experiment": out.parent.name,
        }
        given = {key: value for key, value in (values | changes).items() if value is not None}
        return [part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", str(value))]

    def run(self, out: Path, *more: str, **changes: object) -> Ran:
        """``erasure-sweep run`` in this process."""
        return self.call(out, ["run", *more, *self.flags(out, **changes)])

    def call(self, out: Path, arguments: list[str]) -> Ran:
        """Any command in this process."""
        from erasure_sweep.sweep.commands.main import call

        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            lending(self.background, self.pages),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            code = call(arguments)
        return self.ran(code, stdout.getvalue(), stderr.getvalue(), out)

    def command(self, out: Path, *more: str, **changes: object) -> list[str]:
        """The same for a process of its own, started as the console script starts it."""
        script = "from erasure_sweep.sweep.commands.main import main; main()"
        return [sys.executable, "-c", script, "run", *more, *self.flags(out, **changes)]

    def ran(self, code: int, stdout: str, stderr: str, out: Path) -> Ran:
        """What a run left behind."""
        return Ran(code, stdout, stderr, out, _states(out), self.runs(out.parent.name))

    def close(self) -> None:
        if self._own:
            self._own.close()

    def runs(self, experiment: str) -> dict[str, str]:
        path = self.root / "mlflow.db"
        if not path.exists():
            return {}
        query = "select r.name, r.status from runs r join experiments e using (experiment_id) where e.name = ?"
        with contextlib.closing(sqlite3.connect(path)) as store:
            known = store.execute("select 1 from sqlite_master where name = 'runs'").fetchone()
            return dict(store.execute(query, [experiment])) if known else {}


def _states(out: Path) -> dict[str, str]:
    try:
        entries = json.loads((out / "manifest.json").read_text())["models"]
        return {entry["name"]: entry["state"] for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def assert_refused(ran: Ran, code: int, *said: str) -> None:
    """One line that says all of ``said``, the exit code, and nothing that looks finished."""
    assert ran.code == code, ran.stderr
    lines = ran.stderr.splitlines()
    assert lines, "nothing on stderr"
    assert lines[-1].startswith("erasure-sweep: "), ran.stderr
    assert len(lines) == 1, ran.stderr
    assert "unexpected" not in lines[-1] and "Traceback" not in ran.stderr
    missing = [part for part in said if part not in lines[-1]]
    assert not missing, f"{missing} not in: {lines[-1]}"
    assert_nothing_finished(ran)


def assert_nothing_finished(ran: Ran, *, killed: bool = False) -> None:
    """No tables, pages or finished states, no run that MLflow shows as finished or still going, nothing half-written.

    Args:
        killed: whether workers were: what they were writing may lie there under its temporary name, until the next run.
    """
    left = [path for path in _files(ran.out) if path.suffix in (".parquet", ".html", *(() if killed else (".tmp",)))]
    assert not left, left
    assert "FINISHED" not in ran.states.values() and "MEASURING" not in ran.states.values(), ran.states
    assert "FINISHED" not in ran.runs.values() and "RUNNING" not in ran.runs.values(), ran.runs


def assert_finished(ran: Ran, *models: str) -> None:
    """Everything measured, logged and there, and nothing half-written.

    A model of which nothing clears its null has no verified groups, which its manifest says, and no tables of them.
    """
    assert ran.code == 0, ran.stderr
    assert ran.states == dict.fromkeys(models, "FINISHED")
    assert set(models) <= set(ran.runs) and set(ran.runs.values()) == {"FINISHED"}
    expected = set()
    for model in Manifest.model_validate_json((ran.out / "manifest.json").read_bytes()).models:
        verified = ("group", "adversarial") if model.targets else ()
        assert verified or str(model.targets_reason).startswith("nothing, for"), model.targets_reason
        expected |= {
            f"{model.folder}/tables/{name}.parquet" for name in table_names("scan", "paths", "trust", *verified)
        }
    assert set(ran.tables()) == expected
    assert (ran.out / "compare.html").exists()
    assert not [path for path in _files(ran.out) if path.suffix == ".tmp"]


def _files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else []


def measured_words(out: Path) -> str:
    """What the page of a run's first model says of what was measured."""
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    return measured_line(manifest.models[0], manifest)


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def environment(**changes: str) -> dict[str, str]:
    """This process' environment for another one."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}
