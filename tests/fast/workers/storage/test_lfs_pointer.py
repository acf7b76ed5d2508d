"""Pointers of Git LFS, and what only looks like one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 548118077\n"


@pytest.mark.parametrize(
    "content",
    [
        POINTER,
        POINTER.rstrip("\n"),
        POINTER.replace("\n", "\r\n"),
        POINTER.replace("git-lfs.github.com", "hawser.github.com"),
        POINTER.replace("\noid", "\next-0-foo sha256:00\noid"),
    ],
)
def test_a_pointer_is_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content.encode())
    with pytest.raises(DataError, match=re.escape(str(path))) as refused:
        refuse_pointer(path)
    assert "548,118,077 bytes" in str(refused.value) and "git lfs pull" in str(refused.value)


@pytest.mark.parametrize(
    "content", ["", "version 2\n", POINTER + "is what a pointer looks like", "x" + POINTER, POINTER * 20]
)
def test_other_files_pass(tmp_path: Path, content: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(content)
    refuse_pointer(path)


def test_nothing_and_a_folder_pass(tmp_path: Path) -> None:
    refuse_pointer(tmp_path)
    refuse_pointer(tmp_path / "none")
