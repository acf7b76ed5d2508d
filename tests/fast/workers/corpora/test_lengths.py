"""Prompts of different lengths: documents and rows that are prompts of their own, and padding that is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from erasure_sweep.workers.corpora.resolve_corpus import (
    CorpusRequest,
    load_tokenizer,
    load_tokens,
    resolve_corpus,
)
from erasure_sweep.workers.corpora.staged_tokens import ResolvedCorpus
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.positions import PADDING, prompt_lengths
from tests.support.corpus_requests import write_rows
from tests.support.paths import ROOT

TOKENIZER = str(ROOT / "workers" / "models" / "bundled" / "tokenizer" / "tokenizer.json")
ROWS = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5, 6, 7, 8], [4, 4, 4, 4]]
TEXTS = ["def add(a, b): return a + b", "pass", "x = 1\n" * 40, "é" * 3000, "   \n", "import os"]


def resolve(
    corpus: Path, tmp_path: Path, *, prompts: int = 4, seq_len: int = 6, pack: bool = False, pad_id: int | None = None
) -> ResolvedCorpus:
    request = CorpusRequest(str(corpus), prompts, seq_len, 0, pack=pack, pad_id=pad_id)
    return resolve_corpus(request, TOKENIZER, 2048, 256, tmp_path / "staging")


def prompts_of(found: ResolvedCorpus) -> list[list[int]]:
    """The prompts, sorted, without what fills them up, which stands behind them alone."""
    tokens = load_tokens(found.tokens)
    lengths = prompt_lengths(tokens)
    assert all((row[length:] == PADDING).all() for row, length in zip(tokens, lengths, strict=True))
    return sorted(row[:length].tolist() for row, length in zip(tokens, lengths, strict=True))


def padded(pad_id: int, *, width: int = 9) -> np.ndarray:
    return np.array([row + [pad_id] * (width - len(row)) for row in ROWS])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_rows_are_prompts_of_their_own(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps([{"tokens": row} for row in ROWS]))
    else:
        write_rows(path, [{"tokens": row} for row in ROWS])
    found = resolve(path, tmp_path)
    assert prompts_of(found) == sorted(row[:6] for row in ROWS)
    assert (found.n_prompts, found.seq_len) == (4, 6)
    assert found.seq_len == load_tokens(found.tokens).shape[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["length", "lengths"])
def test_a_column_says_how_many_are_no_padding(suffix: str, column: str, tmp_path: Path) -> None:
    rows = [{"tokens": [*row, *[0] * (9 - len(row))], column: len(row)} for row in ROWS]
    assert prompts_of(resolve(write_rows(tmp_path / f"rows{suffix}", rows), tmp_path)) == sorted(r[:6] for r in ROWS)


@pytest.mark.parametrize("value", [10, -1, "3", None, 2.5])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_length_that_cannot_be_is_refused(suffix: str, value: object, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"rows{suffix}", [{"tokens": ROWS[0], "length": value}])
    with pytest.raises(DataError, match="for length, of 3 tokens: give how many of them are no padding"):
        resolve(path, tmp_path, prompts=1)


@pytest.mark.parametrize("pad_id", [-1, -100, 50256, 0])
def test_padding_at_the_end_of_an_array(pad_id: int, tmp_path: Path) -> None:
    np.save(tmp_path / "padded.npy", padded(pad_id))
    assert prompts_of(resolve(tmp_path / "padded.npy", tmp_path, pad_id=pad_id)) == sorted(row[:6] for row in ROWS)


def test_with_packing_too_short_rows_are_left_out_by_what_they_are_without_padding(tmp_path: Path) -> None:
    np.save(tmp_path / "padded.npy", padded(0))
    found = resolve(tmp_path / "padded.npy", tmp_path, prompts=2, seq_len=4, pack=True, pad_id=0)
    assert prompts_of(found) == [[1, 2, 3, 4], [4, 4, 4, 4]]
    with pytest.raises(UsageError, match="has 2 prompts of 4 tokens, 3 were asked for"):
        resolve(tmp_path / "padded.npy", tmp_path, prompts=3, seq_len=4, pack=True, pad_id=0)


def test_padding_that_is_not_named_is_a_token_that_the_model_has_not(tmp_path: Path) -> None:
    np.save(tmp_path / "padded.npy", padded(-1))
    with pytest.raises(DataError, match=r"token id -1 at prompt 0, position 3: .*padding is given by pad_id"):
        resolve(tmp_path / "padded.npy", tmp_path)


def test_bos_that_is_padding_as_well_stays_where_it_begins(tmp_path: Path) -> None:
    rows = np.array([[9, 5, 6, 9, 9], [9, 7, 9, 8, 9]])
    np.save(tmp_path / "padded.npy", rows)
    assert prompts_of(resolve(tmp_path / "padded.npy", tmp_path, prompts=2, pad_id=9)) == [[9, 5, 6], [9, 7, 9, 8]]


def test_padding_on_the_left_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "padded.npy", np.array([[3, 4, 5, 6], [0, 0, 5, 6]]))
    with pytest.raises(DataError, match="prompt 1, begins with 2 times the pad_id 0: put padding behind"):
        resolve(tmp_path / "padded.npy", tmp_path, prompts=2, pad_id=0)


@pytest.mark.parametrize(("row", "told"), [([7], "one token"), ([], "no token"), ([7, 0, 0], "one token")])
def test_a_prompt_of_one_token_is_refused(row: list[int], told: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"tokens": ROWS[0]}, {"tokens": row}])
    with pytest.raises(DataError, match=f"rows.jsonl:3 has {told}, and a prompt needs two"):
        resolve(path, tmp_path, prompts=2, pad_id=0)


def test_documents_are_prompts_of_their_own(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    found, tokenizer = resolve(path, tmp_path, prompts=5, seq_len=12), load_tokenizer(TOKENIZER)
    written = [text for text in TEXTS if text.strip()]
    expected = [[tokenizer.bos_id, *ids][:12] for ids in tokenizer.encode_batch(written)]
    assert prompts_of(found) == sorted(expected)
    assert {len(prompt) for prompt in expected} >= {2, 12}
    assert "each prompt is BOS and the beginning of a document, of at most 12 tokens" in found.description


def test_too_few_documents(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    with pytest.raises(UsageError, match="has 5 prompts of up to 12 tokens, 6 were asked for: give --prompts 5"):
        resolve(path, tmp_path, prompts=6, seq_len=12)


def test_the_first_prompts_of_a_longer_request_are_the_same(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "texts.jsonl", [{"text": f"{i} = " + "x" * i} for i in range(30)])
    long, short = (load_tokens(resolve(path, tmp_path, prompts=n, seq_len=12).tokens) for n in (20, 7))
    assert short.tolist() == long[:7].tolist()
    alone = load_tokens(resolve(path, tmp_path / "anew", prompts=7, seq_len=12).tokens)
    assert alone.tolist() == short.tolist()


def test_arrays_of_one_length_are_what_they_were(tmp_path: Path) -> None:
    """Packing and its absence are different requests, with arrays of their own."""
    path = write_rows(tmp_path / "rows.jsonl", [{"tokens": [i] * 6} for i in range(5)])
    packed, apart = (resolve(path, tmp_path, pack=pack) for pack in (True, False))
    assert packed.fingerprint == apart.fingerprint
    assert packed.tokens != apart.tokens
