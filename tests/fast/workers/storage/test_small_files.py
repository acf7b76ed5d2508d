"""Small files are read within bounds: nothing that blocks, is too large or too deep."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from erasure_sweep.workers.storage.small_files import parse_json, read_small_file, read_small_json


def test_content_up_to_the_bound(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_small_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small_file(tmp_path / "a", 4)
    os.truncate(tmp_path / "a", 10 * 2**30)  # sparse
    with pytest.raises(OSError, match="larger than 64 MiB"):
        read_small_file(tmp_path / "a")


def test_what_is_no_file_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, kind in {
            tmp_path: "a folder",
            tmp_path / "fifo": "a pipe",
            tmp_path / "socket": "a socket",
            Path("/dev/zero"): "a device",
        }.items():
            with pytest.raises(OSError, match=f"it is {kind}, not a file"):
                read_small_file(path)


def test_links_are_followed(tmp_path: Path):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    assert read_small_json(tmp_path / "link") == [1]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_json_that_is_none(text: bytes):
    with pytest.raises(ValueError):
        parse_json(text)
