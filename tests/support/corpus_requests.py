"""Requests to corpora, as the tests of corpora make them: a byte-level tokenizer, a staging folder, errors as one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from erasure_sweep.workers.corpora.resolve_corpus import CorpusRequest, ResolvedCorpus, load_tokens, resolve_corpus
from erasure_sweep.workers.errors import SweepError

SEQ_LEN = 16
D_VOCAB = 258
BOS = 0


WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def write_tokenizer(folder: Path, specials: tuple[str, ...] = ("<|BOS|>", "<|EOS|>")) -> str:
    """A byte-level tokenizer: the special tokens, then one id for each byte."""
    vocab = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|EOS|>"}}))
    return str(folder)


def write_texts(folder: Path) -> Path:
    """Three documents of numbered lines."""
    (folder / "sub").mkdir(parents=True)
    for name, n_lines in (("a.txt", 40), ("b.md", 9), ("sub/c.py", 70)):
        lines = (f"{name} {i} {WORDS[i % 10]}\n" for i in range(n_lines))
        (folder / name).write_text("".join(lines))
    return folder


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def corpus_of(kind: str, folder: Path, texts: Path) -> Path:
    """Ten prompts as an ``array`` of tokens or as ``rows`` of them; else texts."""
    if kind == "array":
        np.save(folder / "ready.npy", np.arange(160).reshape(10, 16))
        return folder / "ready.npy"
    if kind == "rows":
        return write_rows(folder / "rows.jsonl", [{"tokens": [i] * 16} for i in range(10)])
    return texts


def resolve(corpus: object, tmp_path: Path, tokenizer: str | None = None, **changes: int) -> ResolvedCorpus:
    request = CorpusRequest(
        str(corpus),
        changes.get("prompts", 4),
        changes.get("seq_len", SEQ_LEN),
        changes.get("seed", 0),
        changes.get("least"),
    )
    staging = tmp_path / "staging"
    return resolve_corpus(request, tokenizer, changes.get("d_vocab", D_VOCAB), changes.get("n_ctx", 512), staging)


def tokens_of(*args: object, **changes: int) -> np.ndarray:
    return np.asarray(load_tokens(resolve(*args, **changes).tokens))  # type: ignore[arg-type]


def refusal(kind: type[SweepError], *args: object, **changes: int) -> str:
    """The message of the error that the request must end in: one line."""
    with pytest.raises(kind) as caught:
        resolve(*args, **changes)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)
