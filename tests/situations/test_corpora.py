"""Corpora: files in every form, large, compressed, damaged or missing"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bad_input import Bench, assert_refused

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
