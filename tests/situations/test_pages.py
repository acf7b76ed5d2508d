"""What is said where nothing is erased"""

from __future__ import annotations

import contextlib
import re
import sqlite3

import pytest
import torch

from tests.support.bad_input import Bench, Ran
from tests.support.models.random_models import random_config, tl_state_dict, write_tl_directory


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep of a model whose last layer hardly reads anything."""
    bench = Bench(tmp_path_factory.mktemp("nothing"), pages=True)
    state: dict[str, torch.Tensor] = dict(tl_state_dict(random_config(2, 2, 16)))
    for name in ("blocks.1.attn.W_V", "blocks.1.attn.b_V"):
        state[name] = state[name] * 0.02
    model = write_tl_directory(bench.root / "still", 0, 2, 2, 16, state=state)
    (bench.root / "run").mkdir()
    ran = bench.run(bench.root / "run" / "out", model=model, stage="scan")
    bench.close()
    assert ran.code == 0, ran.stderr
    return ran


LARGEST = r"nothing clear of chance: the most is 0\.0\d, of (embed|pos_embed|L0H\d|MLP0)\."


def test_the_terminal_lists_nothing(nothing: Ran):
    """A model of which nothing is erased, and what the terminal says in the end.

    That nothing clear of chance was found, and the largest that was measured; no writers under a heading that says they are
    taken out.
    """
    assert "take back out" not in nothing.stdout
    assert re.search(f"still: erased: {LARGEST}", nothing.stdout), nothing.stdout


def test_the_pages_list_nothing(nothing: Ran):
    """The same on the pages of the model and of the comparison.

    They open with it.
    """
    for page in (nothing.out / "still" / "index.html", nothing.out / "compare.html"):
        text = page.read_text()
        assert re.search(LARGEST, text), page
        assert "Most erased by reading" not in text and "Most erased:" not in text


def test_mlflow_lists_nothing(nothing: Ran):
    """The same in MLflow.

    Descriptions of runs and experiment say it; no run is tagged with a most erased writer.
    """
    with contextlib.closing(sqlite3.connect(nothing.out.parent.parent / "mlflow.db")) as store:
        tags = [*store.execute("select key, value from tags"), *store.execute("select key, value from experiment_tags")]
    notes = [value for key, value in tags if key == "mlflow.note.content"]
    assert any(re.search(LARGEST, note) for note in notes)
    assert all("clear of chance" in note for note in notes), notes
    assert not [key for key, _ in tags if key.startswith("most_erased")]
