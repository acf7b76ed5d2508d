"""Files that are whole or absent: who may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erasure_sweep.workers.storage.whole_file import whole_file


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_whatever_the_library_that_writes(umask: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "weights") as temporary:
            save_file({"a": torch.zeros(2)}, temporary)
        with whole_file(tmp_path / "text") as temporary:
            temporary.write_text("text")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("weights", "text")} == {0o666 & ~umask}


def test_nothing_stays_where_nothing_was_written(tmp_path: Path):
    with pytest.raises(ValueError), whole_file(tmp_path / "text"):
        raise ValueError
    assert not list(tmp_path.iterdir())
