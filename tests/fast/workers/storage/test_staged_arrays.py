"""Staged arrays: found by their content, refused where it is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.storage.own_staging import NAMES
from erasure_sweep.workers.storage.staged_arrays import load_array, write_array

WEIGHTS = Path("models") / f"{'a' * 32}.safetensors"
MEANS = np.arange(12.0).reshape(3, 4) / 7


def test_what_is_staged_is_read_again(tmp_path: Path) -> None:
    staged = write_array(tmp_path / WEIGHTS, MEANS)
    path = Path(staged.path)
    assert path.parent == tmp_path / "means" and NAMES["means"].fullmatch(path.name)
    assert path.stem == f"{'a' * 32}-{staged.fingerprint}"
    assert np.array_equal(load_array(path), MEANS)
    assert np.array_equal(load_array(Path("not/here") / path.name, path.read_bytes()), MEANS)
    assert write_array(tmp_path / WEIGHTS, MEANS) == staged != write_array(tmp_path / WEIGHTS, MEANS + 1e-15)


def test_another_content_is_refused(tmp_path: Path) -> None:
    path = Path(write_array(tmp_path / WEIGHTS, MEANS).path)
    other = Path(write_array(tmp_path / WEIGHTS, 2 * MEANS).path)
    with pytest.raises(DataError, match="is damaged: run again, and it is made anew"):
        load_array(path, other.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        load_array(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_array(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "means").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        write_array(tmp_path / WEIGHTS, MEANS)
