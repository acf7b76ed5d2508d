"""Prompts of different lengths: documents, padded tokens, prompts of one token"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.bad_input import D_VOCAB, SEQ_LEN, Bench, assert_finished, assert_refused, measured_words


def rows(n: int = 24) -> list[list[int]]:
    drawn = np.random.default_rng(3)
    return [drawn.integers(1, D_VOCAB, length).tolist() for length in drawn.integers(2, SEQ_LEN + 4, n)]


def test_documents_of_different_lengths(bench: Bench, out: Path, tmp_path: Path) -> None:
    """JSON Lines of unequal documents, ready as tokens, with `--pack false`

    Each is a prompt of its own, cut to `--seq-len`; the page says "up to", and counts the tokens that were measured.
    """
    written = rows()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in written))
    ran = bench.run(out, corpus=tmp_path / "rows.jsonl", prompts=12, pack="false")
    assert_finished(ran, "good")
    entry = json.loads((out / "manifest.json").read_text())["models"][0]
    assert 12 < entry["n_tokens"] < 12 * (SEQ_LEN - 1)
    assert f"prompts of up to {SEQ_LEN} tokens" in measured_words(out)
    table = pd.read_parquet(out / "good" / "tables" / "dla_correlation.parquet")
    assert set(table[table["stage"] == "scan"]["n"]) == {entry["n_tokens"]}


def test_padding_that_is_a_token_of_the_model(bench: Bench, out: Path, tmp_path: Path) -> None:
    """Ready tokens that are filled up with an id of the vocabulary

    `--pad-id` says which; without it nothing could tell them from text.
    """
    written = rows()
    np.save(tmp_path / "padded.npy", np.array([row + [0] * (SEQ_LEN + 4 - len(row)) for row in written]))
    assert_finished(bench.run(out, corpus=tmp_path / "padded.npy", prompts=12, pack="false", pad_id=0), "good")
    entry = json.loads((out / "manifest.json").read_text())["models"][0]
    assert entry["n_tokens"] == sum(min(len(row), SEQ_LEN) - 1 for row in written[:12])


def test_a_prompt_of_one_token(bench: Bench, out: Path, tmp_path: Path) -> None:
    """A document of a single token among others, with `--pack false`

    Refused before anything is measured, with its file and line and the reason.
    """
    written = [[3, 4, 5], [7], [5, 6, 7, 8]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in written))
    ran = bench.run(out, corpus=tmp_path / "rows.jsonl", prompts=3, pack="false")
    assert_refused(ran, 1, "rows.jsonl:2 has one token, and a prompt needs two")
