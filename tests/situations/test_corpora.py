"""Corpora: files in every form, large, compressed, damaged or missing"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.bad_input import D_VOCAB, SEQ_LEN, Bench, assert_finished, assert_refused, measured_words

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 548118077\n"


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.jsonl", "corpus.parquet", "corpus.npy", "folder/corpus.txt"])
def test_a_corpus_that_git_lfs_left_as_a_pointer(bench: Bench, out: Path, tmp_path: Path, name: str):
    """A corpus that Git LFS left as a pointer

    Refused before anything is measured, with the file's name and `git lfs pull`.
    """
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(POINTER)
    given = path.parent if "/" in name else path
    assert_refused(bench.run(out, corpus=given), 1, str(path), "pointer of Git LFS", "git lfs pull")


class TestRepeatedDocuments:
    def test_some_that_repeat_one_another(self, bench: Bench, out: Path, tmp_path: Path):
        """A corpus with repeated documents

        Each text counts once: the distinct prompts are measured, and how many these are is said in the terminal, the
        manifest and on the page. Verify measures on prompts that differ from the scanned ones, or says that it does not.
        """
        distinct = np.random.default_rng(0).integers(0, D_VOCAB, (6, SEQ_LEN))
        np.save(tmp_path / "repeated.npy", np.tile(distinct, (20, 1)))
        ran = bench.run(out, corpus=tmp_path / "repeated.npy", prompts=32)
        assert_finished(ran, "good")
        entry = json.loads((out / "manifest.json").read_text())["models"][0]
        assert (entry["n_prompts"], entry["held_out"]) == (6, False)
        assert "6 distinct prompts of 16 tokens, the others repeat them, so 6 are measured instead of 32" in ran.stdout
        assert "Verified on scanned prompts" in ran.stdout
        words = measured_words(out)
        assert "Measured on 6 prompts" in words and "that repeat others were left out" in words
        table = pd.read_parquet(out / "good" / "tables" / "eraser_group.parquet")
        assert not table["held_out"].any()

    def test_others_are_left_for_verify(self, bench: Bench, out: Path, tmp_path: Path):
        """A corpus with repeated documents, and different ones left for verify

        Verify's prompts are none that were scanned, whatever their place in the corpus.
        """
        distinct = np.random.default_rng(0).integers(0, D_VOCAB, (12, SEQ_LEN))
        np.save(tmp_path / "repeated.npy", distinct[[0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 11]])
        ran = bench.run(out, corpus=tmp_path / "repeated.npy", prompts=8)
        assert_finished(ran, "good")
        entry = json.loads((out / "manifest.json").read_text())["models"][0]
        assert (entry["n_prompts"], entry["n_verify_prompts"], entry["held_out"]) == (8, 4, True)

    def test_one_prompt_tiled(self, bench: Bench, out: Path, tmp_path: Path):
        """A corpus of one prompt, many times

        It is scanned once, without p-values or intervals, for nothing says how sure they would be; verify, which lends prompts
        each other's outputs, is refused.
        """
        np.save(tmp_path / "tiled.npy", np.tile(np.arange(SEQ_LEN), (64, 1)))
        flags = {"corpus": tmp_path / "tiled.npy", "prompts": 32}
        refused = bench.run(out, **flags)
        assert_refused(refused, 2, "verify needs 2 distinct prompts", "holds 1", "--stage scan")
        ran = bench.run(out, stage="scan", **flags)
        assert ran.code == 0, ran.stderr
        pairs = pd.read_parquet(out / "good" / "tables" / "v_composition.parquet")
        lines = pd.read_parquet(out / "good" / "tables" / "dla_correlation.parquet")
        assert pairs[["p", "significant"]].isna().all(axis=None)
        assert lines[["low", "high", "slope_low", "slope_high"]].isna().all(axis=None)
