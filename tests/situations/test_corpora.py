"""Corpora: files in every form, large, compressed, damaged or missing"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.support.bad_input import D_VOCAB, SEQ_LEN, Bench, assert_finished, assert_refused, measured_words

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 548118077\n"


@pytest.mark.parametrize(
    "name",
    [
        *("corpus.txt", "folder/corpus.txt"),
        *(pytest.param(f"corpus.{form}", marks=pytest.mark.nightly) for form in ("jsonl", "parquet", "npy")),
    ],
)
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
        ran = bench.run(out, corpus=tmp_path / "repeated.npy", prompts=32, writer="L0H0")
        assert_finished(ran, "good")
        entry = json.loads((out / "manifest.json").read_text())["models"][0]
        assert (entry["n_prompts"], entry["held_out"]) == (6, False)
        assert "6 distinct prompts of 16 tokens, the others repeat them, so 6 are measured instead of 32" in ran.stdout
        assert "Verified on scanned prompts" in ran.stdout
        words = measured_words(out)
        assert "Measured on 6 prompts" in words and "that repeat others were left out" in words
        table = pd.read_parquet(out / "good" / "tables" / "eraser_group.parquet")
        assert not table["held_out"].any()
        pairs = pd.read_parquet(out / "good" / "tables" / "v_composition.parquet")
        assert (
            pairs[["p", "significant", "beta_low"]].isna().all(axis=None)
        )  # one block of six prompts says nothing of chance

    def test_others_are_left_for_verify(self, bench: Bench, out: Path, tmp_path: Path):
        """A corpus with repeated documents, and different ones left for verify

        Verify's prompts are none that were scanned, whatever their place in the corpus.
        """
        distinct = np.random.default_rng(0).integers(0, D_VOCAB, (12, SEQ_LEN))
        np.save(tmp_path / "repeated.npy", distinct[[0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 11]])
        ran = bench.run(out, corpus=tmp_path / "repeated.npy", prompts=8, writer="L0H0")
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
        assert pairs[["p", "significant", "significant_by", "beta_low", "beta_high"]].isna().all(axis=None)
        assert lines[["low", "high", "slope_low", "slope_high"]].isna().all(axis=None)


ROWS = [{"id": i, "tokens": np.random.default_rng(i).integers(0, D_VOCAB, SEQ_LEN).tolist()} for i in range(24)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES: dict[str, bytes] = {
    "c4.json": LINES.encode(),
    "c4.jsonl.gz": gzip.compress(LINES.encode()),
    "c4.json.zst": bytes(pa.compress(LINES.encode(), "zstd", asbytes=True)),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "c4.json": (b'{"text": "a row",\n "id": 3}\n', "is one JSON value over many lines"),
    "log": (b'{"text": "a"\n', "looks like JSON and is not valid"),
    "notes.pdf": (b"%PDF-1.4 and so on", "is a PDF, not text"),
    "model.bin": (b"abc\0def", "is not text (a zero byte at offset 3)"),
    "torn.jsonl.gz": (gzip.compress(LINES.encode())[:-30], "cannot be unpacked"),
    "deep.json": (b"[" * 100_000, "nested too deep"),
    "deep.jsonl": (b'{"text": ' * 100_000, "nested too deep"),
}


class TestFormats:
    @pytest.mark.parametrize("name", FILES)
    def test_rows_by_any_name(self, bench: Bench, out: Path, tmp_path: Path, name: str):
        """JSON Lines that are called `.json`, or compressed (`.gz`, `.zst`, `.bz2`, `.xz`)

        Read as rows: what a file holds is seen in it, whatever it is called.
        """
        (tmp_path / name).write_bytes(FILES[name])
        ran = bench.run(out, corpus=tmp_path / name, stage="scan")
        assert ran.code == 0, ran.stderr
        entry = json.loads((out / "manifest.json").read_text())["models"][0]
        assert entry["corpus"].startswith(f"{tmp_path / name}: 24 rows of ready tokens, 24 long enough")

    def test_a_folder_of_several_kinds(self, bench: Bench, out: Path, tmp_path: Path):
        """A folder with `a.jsonl`, `b.jsonl.gz` and other files

        All that can be read is; which files are left out, and why, is said in the terminal, the manifest and on the page.
        """
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "a.jsonl").write_text(LINES)
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(LINES.replace('"tokens": [', '"tokens": [1, ').encode()))
        (folder / "plot.png").write_bytes(b"\x89PNG")
        os.mkfifo(folder / "pipe.jsonl")
        ran = bench.run(out, corpus=folder, prompts=30, stage="scan")
        assert ran.code == 0, ran.stderr
        left_out = "pipe.jsonl (no regular files); plot.png (of no format that is read, by its name)"
        assert f"files of the corpus that are left out: {left_out}" in " ".join(ran.stdout.split())
        words = measured_words(out)
        assert "48 rows of ready tokens" in words and words.count(f"left out: {left_out}") == 1

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_is_neither_rows_nor_text(self, bench: Bench, out: Path, tmp_path: Path, name: str):
        """JSON that is no rows, nested without end, or torn; a PDF; something binary

        Refused in one line that names the file; JSON is never measured as prose.
        """
        content, said = REFUSED[name]
        (tmp_path / name).write_bytes(content)
        assert_refused(bench.run(out, corpus=tmp_path / name), 1, name, said)

    @pytest.mark.parametrize("name", ["pipe", "pipe.npy"])
    def test_a_pipe(self, bench: Bench, out: Path, tmp_path: Path, name: str):
        """A pipe or a device as corpus

        Refused at once: nothing waits for what may never come.
        """
        os.mkfifo(tmp_path / name)
        assert_refused(bench.run(out, corpus=tmp_path / name), 1, str(tmp_path / name), "no regular file")
