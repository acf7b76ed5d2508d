"""What files of a corpus hold, by their content; what is refused, in one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erasure_sweep.workers.corpora import compressed, formats, row_files, text_files
from erasure_sweep.workers.corpora.formats import LINES, LIST, PARQUET, TEXT, format_of
from erasure_sweep.workers.corpora.text_files import find_files
from erasure_sweep.workers.errors import DataError, UsageError
from tests.support.corpus_requests import refusal, resolve, tokens_of, write_rows, write_tokenizer

ROWS: list[dict[str, object]] = [{"id": i, "text": f"row {i} of the corpus, " * 5} for i in range(40)]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    """Two frames, as tools write them that work in parallel."""
    half = len(data) // 2
    return bytes(pa.compress(data[:half], "zstd", asbytes=True) + pa.compress(data[half:], "zstd", asbytes=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def lines(tmp_path: Path, tokenizer: str) -> list[list[int]]:
    """Prompts of the rows as JSON Lines."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "rows").write_text(JSON_LINES)
    return tokens_of(tmp_path / "plain" / "rows", tmp_path, tokenizer).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["rows.json", "rows.txt", "rows.jsonl", "rows.unheard-of", "rows"])
def test_json_lines_by_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\ufeff" + JSON_LINES if name == "rows.json" else JSON_LINES)
    assert format_of(name, tmp_path / name).kind == LINES


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_rows_are_those_that_were_compressed(
    suffix: str, tmp_path: Path, tokenizer: str, lines: list[list[int]]
) -> None:
    """By any name; the order of prompts follows the name, so here it is the same."""
    (tmp_path / "rows").write_bytes(PACKERS[suffix](JSON_LINES.encode()))
    assert tokens_of(tmp_path / "rows", tmp_path, tokenizer).tolist() == lines
    (tmp_path / f"rows.jsonl{suffix}").write_bytes(PACKERS[suffix](JSON_LINES.encode()))
    assert resolve(tmp_path / f"rows.jsonl{suffix}", tmp_path, tokenizer).n_prompts == 4


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_text_and_parquet(suffix: str, tmp_path: Path, tokenizer: str) -> None:
    text = "".join(f"{i} is a line\n" for i in range(400)).encode()
    for folder, content in (("plain", text), ("packed", PACKERS[suffix](text))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_bytes(content)
    plain, packed = (tokens_of(tmp_path / name / "a.txt", tmp_path, tokenizer).tolist() for name in ("plain", "packed"))
    assert plain == packed
    path = write_rows(tmp_path / "rows.parquet", [{"tokens": [i] * 16} for i in range(9)])
    (tmp_path / "rows.parquet.gz").write_bytes(PACKERS[suffix](path.read_bytes()))
    assert sorted(tokens_of(tmp_path / "rows.parquet.gz", tmp_path, prompts=9)[:, 0].tolist()) == list(range(9))


@pytest.mark.parametrize("suffix", PACKERS)
def test_torn_ones(suffix: str, tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    rows = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(4000))
    path.write_bytes(PACKERS[suffix](rows.encode())[:-20])
    assert f"a.jsonl{suffix} cannot be unpacked" in refusal(DataError, path, tmp_path, tokenizer)


def test_a_bomb(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_UNPACKED_BYTES", 10_000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a line\n" * 10_000))
    assert "a.txt.gz unpacks to more than 10,000 bytes" in refusal(
        DataError, tmp_path / "a.txt.gz", tmp_path, tokenizer
    )


class TestArrays:
    @pytest.mark.parametrize("indent", [None, 2])
    def test_of_objects_and_of_texts(self, indent: int | None, tmp_path: Path, tokenizer: str) -> None:
        found = []
        for name, rows in (("a", ROWS), ("b", [row["text"] for row in ROWS])):
            (tmp_path / name).mkdir()
            path = tmp_path / name / "rows.json"
            path.write_text(json.dumps(rows, indent=indent))
            assert format_of("rows.json", path).kind == LIST
            found.append(tokens_of(path, tmp_path, tokenizer).tolist())
        assert found[0] == found[1]

    def test_of_ids(self, tmp_path: Path) -> None:
        (tmp_path / "ids.json").write_text(json.dumps([[i] * 20 for i in range(9)]))
        assert sorted(tokens_of(tmp_path / "ids.json", tmp_path, prompts=9)[:, 3].tolist()) == list(range(9))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[1, 2]", "its first element is 1, no row"),
            ("[]", "the array is empty"),
            ('[{"text": "a"}, {"text', "is not valid JSON"),
            ('[{"text": "a"}, 7]', "rows.json:1 is 7"),
            ('[{"body": "a"}]', "its columns: body"),
            ('{"data": [\n{"text": "a"}\n]}\n', "one JSON value over many lines"),
            ('{"text": "a"}\nprose\n', "its second is not"),
            ('{"text": "a', "looks like JSON and is not valid"),
            ("prose\n", "looks like JSON and is not valid"),
            ("", "holds no rows"),
        ],
    )
    def test_what_is_none(self, content: str, said: str, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "rows.json").write_text(content)
        assert said in refusal(DataError, tmp_path / "rows.json", tmp_path, tokenizer)


@pytest.mark.parametrize("depth", [100_000])
@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl", "deep"])
@pytest.mark.parametrize("start", ['{"text": ', ""])
def test_nested_without_end(name: str, depth: int, start: str, tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / name).write_text(start + "[" * depth + "]" * depth + ("}" if start else ""))
    assert "nested too deep" in refusal(DataError, tmp_path / name, tmp_path, tokenizer)


def test_a_line_without_end(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (formats, row_files):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 100_000)
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text(json.dumps({"text": "a" * 200_000}))
        assert (
            "more than 100,000 bytes" in (said := refusal(DataError, tmp_path / name, tmp_path, tokenizer))
            or "longer than 100,000 bytes" in said
        )
    (tmp_path / "c.txt").write_text("".join(chr(97 + i % 23) for i in range(300_000)))
    assert resolve(tmp_path / "c.txt", tmp_path, tokenizer).n_prompts == 4, "text needs no line ends"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", "[a link](there) and prose\n"),
        ("b.txt", "[1] A footnote.\n"),
        ("c.toml", "[section]\nkey = 1\n"),
        ("d.py", '{"a": 1}\n{"b": 2}\n'),
        ("e.txt", '{"a": 1}\nis an object\n'),
        ("f.tex", "{\\bf bold}\n"),
        ("LICENSE", "Permission is hereby granted\n"),
        ("g.txt", "BZhang wrote this\n"),
        ("h.log", "[2024-01-01 10:00:00] INFO started\n"),
        ("refs", "[1] Vaswani\n[2] Janiak\n"),
        ("i.dat", '{"quoted"} he said\n'),
        ("j.raw", '["A quote"], he wrote\n'),
    ],
)
def test_text_that_begins_like_something_else(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert format_of(name, tmp_path / name).kind == TEXT


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.bin", b"abc\0def", "is not text (a zero byte at offset 3)"),
        ("b.png", b"\x89PNG\r\n", "is an image, not text"),
        ("c.zip", b"PK\x03\x04abc", "is a zip archive, not text"),
        ("d.pdf", b"%PDF-1.4 text", "is a PDF, not text"),
        ("e.log", b'{"text": "a"', "looks like JSON and is not valid"),
        ("f.ipynb", b'{\n "cells": []\n}\n', "one JSON value over many lines"),
    ],
)
def test_what_is_no_corpus(name: str, content: bytes, said: str, tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(DataError, tmp_path / name, tmp_path, tokenizer)
    assert message.startswith(name) and said in message


def test_arrays_of_numpy_and_parquet_by_other_names(tmp_path: Path, tokenizer: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 16), int))
    (tmp_path / "a.npy").rename(tmp_path / "a.dat")
    assert "a.dat is an array of numpy: give it by itself" in refusal(DataError, tmp_path / "a.dat", tmp_path)
    write_rows(tmp_path / "b.parquet", ROWS).rename(tmp_path / "b.txt")
    assert format_of("b.txt", tmp_path / "b.txt").kind == PARQUET
    assert resolve(tmp_path / "b.txt", tmp_path, tokenizer).n_prompts == 4


def test_a_categorical_column_of_parquet(tmp_path: Path, tokenizer: str) -> None:
    texts = pa.array([str(row["text"]) for row in ROWS])
    found = []
    for name, column in (("a", texts), ("b", texts.dictionary_encode())):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"text": column}), tmp_path / name / "rows.parquet")
        found.append(tokens_of(tmp_path / name / "rows.parquet", tmp_path, tokenizer).tolist())
    assert found[0] == found[1]


class TestFolders:
    def test_all_are_read_and_the_others_named(self, tmp_path: Path, tokenizer: str) -> None:
        folder = tmp_path / "folder"
        (folder / ".git").mkdir(parents=True)
        write_rows(folder / "a.jsonl", ROWS[:20])
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(JSON_LINES.encode()))
        (folder / "c.txt.zst").write_bytes(zstd(b"a line of text\n" * 9))
        (folder / "i18n.json").write_text('{"text": {"title": "hello"}}')
        (folder / "design.json").write_text('{"tokens": {"color": "red"}}')
        (folder / "ids.json").write_text('{"tokens": [1, 2, 3]}')
        (folder / "info.json").write_text('{\n "rows": 40\n}\n')
        (folder / "rows.json").write_text(json.dumps(ROWS))
        (folder / "plot.png").write_bytes(b"\x89PNG")
        (folder / ".git" / "config").write_text("[core]\n")
        (folder / "elsewhere").symlink_to(tmp_path)
        os.mkfifo(folder / "pipe.txt")
        corpus = find_files(folder)
        assert [file.name for file in corpus.files] == ["a.jsonl", "b.jsonl.gz", "c.txt.zst", "rows.json"]
        for part in (
            ".git/config (hidden)",
            "elsewhere (links to folders)",
            "plot.png (of no format that is read, by its name)",
            "pipe.txt (no regular files)",
            "design.json, i18n.json, info.json (JSON that holds no rows of text or tokens)",
            "ids.json (JSON of tokens beside text, or of text beside tokens)",
        ):
            assert part in corpus.left_out
        found = resolve(folder, tmp_path, tokenizer)
        assert found.left_out == corpus.left_out and found.description.endswith(corpus.left_out)
        assert resolve(folder, tmp_path, tokenizer) == found

    def test_many_are_counted(self, tmp_path: Path) -> None:
        for i in range(2000):
            (tmp_path / f"{i:04}.png").write_bytes(b"")
        (tmp_path / "a.txt").write_text("text\n")
        assert find_files(tmp_path).left_out == (
            "0000.png, 0001.png, 0002.png and 1997 more (of no format that is read, by its name)"
        )

    def test_too_many(self, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_files, "MAX_FILES", 9)
        monkeypatch.setattr(text_files, "_MOST_COMPRESSED", 5)
        (tmp_path / "many").mkdir()
        for i in range(8):
            (tmp_path / "many" / f"{i}.txt.gz").write_bytes(gzip.compress(b"text\n" * 99))
        assert "more than 5 compressed files" in refusal(UsageError, tmp_path / "many", tmp_path, tokenizer)
        for i in range(8):
            (tmp_path / "many" / f"{i}.txt").write_text("")
        assert "more than 9 files" in refusal(UsageError, tmp_path / "many", tmp_path, tokenizer)


@pytest.mark.parametrize("name", ["pipe", "pipe.npy", "pipe.jsonl.gz"])
def test_a_pipe_and_a_device_never_block(name: str, tmp_path: Path, tokenizer: str) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, Path("/dev/zero")):
        assert f"{path} is no regular file" in refusal(DataError, path, tmp_path, tokenizer)
