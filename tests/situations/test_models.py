"""Models: names, folders and files in every form, damaged, foreign or enormous"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bad_input import Bench
from tests.support.models.random_models import write_tl_directory


class TestNames:
    def test_a_folder_that_is_called_like_a_known_model(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A folder that is called like a bundled model or one of the hub

        The known model is measured, and a line says that the folder was passed over and how to mean it (`./NAME`).
        """
        write_tl_directory(tmp_path / "toy-gelu-2l", 3, 1, 2, 16)
        monkeypatch.chdir(tmp_path)
        known = bench.run(out, "--dry-run", model="toy-gelu-2l", seq_len=8)
        assert known.code == 0 and known.stdout.startswith(
            "toy-gelu-2l is the bundled model toy-gelu-2l; the folder toy-gelu-2l here is passed over: write "
            "./toy-gelu-2l to mean it"
        )
        meant = bench.run(out, model="./toy-gelu-2l", stage="scan", seq_len=8)
        assert meant.code == 0 and meant.states == {"toy-gelu-2l": "FINISHED"} and "passed over" not in meant.stdout
        assert json.loads((out / "manifest.json").read_text())["models"][0]["n_layers"] == 1

    def test_a_folder_that_is_called_like_a_known_corpus(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A folder that is called like a known corpus

        The known corpus is read, and a line says that the folder was passed over and how to mean it.
        """
        (tmp_path / "stdlib").mkdir()
        monkeypatch.chdir(tmp_path)
        ran = bench.run(out, "--dry-run", model="toy-gelu-2l", prompts=2, seq_len=8, corpus="stdlib")
        assert ran.code == 0 and ran.stdout.startswith(
            "stdlib is a known corpus; the folder stdlib here is passed over: write ./stdlib to mean it"
        )
