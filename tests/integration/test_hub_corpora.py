"""Corpora and tokenizers from a hub on loopback: what the real clients stream, and how they fail.

Requests run in processes of their own, because huggingface_hub and datasets read their environment on import.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.hub import Hub, run_environment

ROOT = Path(__file__).parents[2]
SEQ_LEN = 12
RESOLVE = """
import json, sys
from pathlib import Path
from workers.corpora import CorpusRequest, load_tokens, resolve_corpus
from workers.errors import SweepError
import datasets

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.5  # 5 s for each stream, for the sake of far larger files
for corpus, prompts, tokenizer in json.loads(sys.argv[2]):
    try:
        found = resolve_corpus(CorpusRequest(corpus, prompts, 12, 0), tokenizer, 2000, 64, Path(sys.argv[1]))
        answer = {"tokens": load_tokens(found.tokens).tolist(), "description": found.description}
    except SweepError as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


def resolve(hub: Hub, tmp_path: Path, *asked: tuple[str, int, str | None]) -> list[dict[str, Any]]:
    """What a fresh process makes of requests (corpus, prompts, tokenizer), one after the other."""
    finished = subprocess.run(
        [sys.executable, "-c", RESOLVE, str(tmp_path / "staging"), json.dumps(asked)],
        cwd=ROOT,
        env=run_environment(hub, tmp_path / "cache") | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answers = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == len(asked)
    assert not any("\n" in answer.get("error", "") for answer in answers)
    return answers


def tokenizer_files() -> dict[str, bytes]:
    vocab = {token: i for i, token in enumerate(["<pad>", "<start>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = {"bos_token": "<start>", "tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


def test_ready_tokens_are_streamed_and_staged(hub: Hub, tmp_path: Path) -> None:
    hub.add_token_dataset("NeelNanda/c4-tokenized-2b", [[i] * 16 for i in range(300)], shards=3)
    name = "c4-tokenized-2b"
    long, short, too_many = resolve(
        hub, tmp_path, (name, 40, None), (f"hf:NeelNanda/{name}", 7, None), (name, 301, None)
    )
    tokens = np.array(long["tokens"])
    assert tokens.shape == (40, SEQ_LEN)
    assert len(set(tokens[:, 0].tolist())) == 40
    assert (tokens == tokens[:, :1]).all()
    assert short["tokens"] == long["tokens"][:7]
    assert too_many["error"].startswith(f"UsageError: corpus {name} has 300 prompts")
    hub.stop()
    assert resolve(hub, tmp_path, (name, 40, None)) == [long]


def test_the_authors_mix(hub: Hub, tmp_path: Path) -> None:
    """Four to one, in the order of torch's permutation: c4 where it puts the first 240, code where the last 60."""
    hub.add_token_dataset("NeelNanda/c4-tokenized-2b", [[i] * 16 for i in range(400)], shards=2)
    hub.add_token_dataset("NeelNanda/code-tokenized", [[1000 + i] * 16 for i in range(80)])
    whole, prefix = resolve(hub, tmp_path, ("gelu-mix", 300, None), ("gelu-mix", 30, None))
    found = np.array(whole["tokens"])[:, 0]
    torch.manual_seed(5235)
    assert ((found < 1000) == (torch.randperm(300).numpy() < 240)).all()
    assert len(set(found.tolist())) == 300
    assert prefix["tokens"] == whole["tokens"][:30]


def test_texts_with_a_tokenizer_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add_text_dataset("NeelNanda/pile-10k", [f"text number {i} " * 12 for i in range(30)])
    hub.add("models", "owner/tokenizer", tokenizer_files())
    long, short = resolve(
        hub, tmp_path, ("pile-10k", 20, "owner/tokenizer"), ("hf:NeelNanda/pile-10k", 3, "owner/tokenizer")
    )
    assert {row[0] for row in long["tokens"]} == {1}
    assert "first rows" in long["description"]
    assert short["tokens"] == long["tokens"][:3]


def test_a_tokenizer_that_only_transformers_reads(hub: Hub, tmp_path: Path) -> None:
    """GPT-2's older files: a vocabulary and merges, no tokenizer.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "ab", "<|endoftext|>"])}
    files = {"vocab.json": json.dumps(vocab).encode(), "merges.txt": b"#version: 0.2\na b\n"}
    files |= {"config.json": b'{"model_type": "gpt2"}'}
    hub.add("models", "owner/old", files | {"tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer"}'})
    (tmp_path / "text.txt").write_text("abab" * 100)
    (found,) = resolve(hub, tmp_path, (str(tmp_path / "text.txt"), 2, "owner/old"))
    assert found["tokens"] == [[257] + [256] * (SEQ_LEN - 1)] * 2


@pytest.mark.parametrize("status", ["missing", "gated", "private"])
def test_what_the_hub_does_not_give(status: Any, hub: Hub, tmp_path: Path) -> None:
    if status != "missing":
        hub.add_token_dataset("owner/name", [[1] * 16]).status = status
        hub.add("models", "owner/tokenizer", tokenizer_files()).status = status
    rows, tokenizer = resolve(hub, tmp_path, ("hf:owner/name", 1, None), ("stdlib", 1, "owner/tokenizer"))
    assert rows["error"].startswith("DataError: data set owner/name cannot be loaded from the Hugging Face hub")
    assert tokenizer["error"].startswith("DataError: tokenizer.json of owner/tokenizer cannot be loaded")
    assert not (tmp_path / "staging" / "corpora").exists()


def test_no_such_split_or_column(hub: Hub, tmp_path: Path) -> None:
    hub.add_token_dataset("owner/name", [[1] * 16])
    hub._add_parquet("owner/other", "body", ["text"], 1)
    split, column = resolve(hub, tmp_path, ("hf:owner/name::test", 1, None), ("hf:owner/other", 1, None))
    assert "data set owner/name cannot be loaded" in split["error"]
    assert "test" in split["error"]
    assert "its columns: body" in column["error"]


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_a_torn_transfer(fault: Any, hub: Hub, tmp_path: Path) -> None:
    repo = hub.add_token_dataset("owner/name", [[i] * 16 for i in range(500)])
    repo.faults = dict.fromkeys(repo.files, fault)
    start = time.monotonic()
    (answer,) = resolve(hub, tmp_path, ("hf:owner/name", 5, None))
    assert answer["error"].startswith("DataError: data set owner/name cannot be loaded")
    assert time.monotonic() - start < 90


def test_a_hub_that_is_gone(hub: Hub, tmp_path: Path) -> None:
    hub.stop()
    start = time.monotonic()
    (answer,) = resolve(hub, tmp_path, ("gelu-mix", 5, None))
    assert answer["error"].startswith("DataError: data set NeelNanda/c4-tokenized-2b cannot be loaded")
    assert "--corpus stdlib" in answer["error"]
    assert time.monotonic() - start < 90
