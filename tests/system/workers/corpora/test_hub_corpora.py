"""Corpora and tokenizers from a hub on loopback: what the real clients stream, and how they fail.

Requests run in processes of their own, because huggingface_hub and datasets read their environment on import.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.support.paths import ROOT
from tests.support.servers.hub import Hub, run_environment

SEQ_LEN = 12
RESOLVE = """
import json, sys, time
from pathlib import Path
from erasure_sweep.workers.corpora.resolve_corpus import CorpusRequest, load_tokens, resolve_corpus
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.corpora import hub_sets as corpus_hub

slept, sleep = [], time.sleep
time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))
corpus_hub.ROW_TIMEOUT_S, streams = float(sys.argv[3]), sys.argv[4] == "True"
if streams:
    import datasets

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.5  # 5 s for each stream, for the sake of far larger files
for corpus, prompts, tokenizer in json.loads(sys.argv[2]):
    try:
        found = resolve_corpus(CorpusRequest(corpus, prompts, 12, 0), tokenizer, 2000, 64, Path(sys.argv[1]))
        answer = {"tokens": load_tokens(found.tokens).tolist(), "description": found.description}
    except SweepError as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
assert streams or "datasets" not in sys.modules, "nothing was to be streamed"
assert streams or sum(slept) < 20, "nobody is to wait so long between retries"
"""


def resolve(
    hub: Hub,
    tmp_path: Path,
    *asked: tuple[str, int, str | None],
    offline: bool = False,
    row_timeout_s: float = 600,
    streams: bool = True,
) -> list[dict[str, Any]]:
    """What a fresh process makes of requests (corpus, prompts, tokenizer), one after the other, and prints of itself."""
    finished = subprocess.run(
        [sys.executable, "-c", RESOLVE, str(tmp_path / "staging"), json.dumps(asked), str(row_timeout_s), str(streams)],
        cwd=ROOT,
        env=run_environment(hub, tmp_path / "cache", offline) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(answers) == len(asked)
    assert not any("\n" in answer.get("error", "") for answer in answers)
    return answers


def parquet(column: str, rows: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({column: rows}), buffer)
    return buffer.getvalue()


def nothing_staged(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "staging").rglob("*") if path.is_file() and path.suffix != ".lock"]


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
    hub.requests.clear()
    again, cut = resolve(hub, tmp_path, (name, 40, None), (name, 9, None), streams=False)
    assert (again, cut["tokens"]) == (long, long["tokens"][:9])
    assert hub.requests == []
    shutil.copytree(tmp_path / "staging", tmp_path / "elsewhere" / "staging")
    (more,) = resolve(hub, tmp_path / "elsewhere", (name, 41, None), offline=True, streams=False)
    assert more["error"].startswith("DataError: data set NeelNanda/c4-tokenized-2b is not staged and HF_HUB_OFFLINE is")
    hub.stop()
    assert resolve(hub, tmp_path / "elsewhere", (name, 40, None), streams=False) == [long]


@pytest.mark.nightly
def test_two_processes_draw_once(hub: Hub, tmp_path: Path) -> None:
    hub.add_token_dataset("owner/name", [[i] * 16 for i in range(50)]).files["README.md"] = b"text"
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: resolve(hub, tmp_path, ("hf:owner/name", 20, None)), range(2)))
    assert both[0] == both[1]
    assert hub.requests.count("GET /api/datasets/owner/name") == 1, "the other one did not ask the hub at all"


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


@pytest.mark.nightly
def test_a_tokenizer_that_only_transformers_reads(hub: Hub, tmp_path: Path) -> None:
    """GPT-2's older files: a vocabulary and merges, no tokenizer.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "ab", "<|endoftext|>"])}
    files = {"vocab.json": json.dumps(vocab).encode(), "merges.txt": b"#version: 0.2\na b\n"}
    files |= {"config.json": b'{"model_type": "gpt2"}'}
    hub.add("models", "owner/old", files | {"tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer"}'})
    (tmp_path / "text.txt").write_text("abab" * 100)
    (found,) = resolve(hub, tmp_path, (str(tmp_path / "text.txt"), 1, "owner/old"))
    assert found["tokens"] == [[257] + [256] * (SEQ_LEN - 1)]


REFUSED = {
    "missing": "{hub} has no data set owner/missing, or it is private: check the name, or `hf auth login`",
    "gated": "data set owner/gated is gated: accept its terms on {hub}/datasets/owner/gated, then `hf auth login`",
    "private": "{hub} has no data set owner/private, or it is private: check the name, or `hf auth login`",
    "broken": "{hub} answers 503 for data set owner/broken: try later, or fetch it where there is a network",
}


def test_what_the_hub_does_not_give(hub: Hub, tmp_path: Path) -> None:
    for status in ("gated", "private", "broken"):
        hub.add_token_dataset(f"owner/{status}", [[1] * 16]).status = status
    answers = resolve(hub, tmp_path, *((f"hf:owner/{status}", 1, None) for status in REFUSED), streams=False)
    for answer, message in zip(answers, REFUSED.values(), strict=True):
        assert answer["error"].startswith("DataError: " + message.format(hub=hub.url))
    assert nothing_staged(tmp_path)


def test_a_tokenizer_that_the_hub_does_not_give(hub: Hub, tmp_path: Path) -> None:
    hub.add("models", "owner/gated", tokenizer_files()).status = "gated"
    names = ("owner/missing", "owner/gated")
    for name, answer in zip(names, resolve(hub, tmp_path, *(("stdlib", 1, name) for name in names)), strict=True):
        assert answer["error"].startswith(f"DataError: tokenizer.json of {name} cannot be loaded")


def test_configurations_and_splits(hub: Hub, tmp_path: Path) -> None:
    listed = [("en", True, "train", 1), ("en", True, "test", 2), ("de", False, "train", 3)]
    files = {f"{config}/{split}-0.parquet": parquet("tokens", [[token] * 16] * 4) for config, _, split, token in listed}
    card = """---
configs:
- config_name: de
  data_files: [{split: train, path: de/train-*}]
- config_name: en
  default: true
  data_files: [{split: train, path: en/train-*}, {split: test, path: en/test-*}]
---
"""
    hub.add("datasets", "owner/name", files | {"README.md": card.encode()})
    names = ("hf:owner/name", "hf:owner/name:en:test", "hf:owner/name:de", "hf:owner/name::test")
    *found, no_config, no_split = resolve(
        hub, tmp_path, *((name, 2, None) for name in (*names, "hf:owner/name:fr", "hf:owner/name:de:test"))
    )
    assert [one["tokens"][0][0] for one in found] == [1, 2, 3, 2]
    assert no_config["error"].startswith(f"DataError: data set owner/name cannot be loaded from {hub.url} (")
    assert "'fr'" in no_config["error"]
    assert "'de', 'en'" in no_config["error"]
    assert "test" in no_split["error"]
    assert "train" in no_split["error"]


@pytest.mark.nightly
def test_a_set_that_is_a_script(hub: Hub, tmp_path: Path) -> None:
    """As stas/openwebtext-10k: ``datasets`` runs no scripts, and the hub keeps their rows as parquet in a branch."""
    hub.add("models", "owner/tokenizer", tokenizer_files())
    for name, configs in (("stas/openwebtext-10k", ["plain_text"]), ("owner/two", ["a", "b"])):
        repo = hub.add("datasets", name, {f"{name.split('/')[1]}.py": b"import datasets\n", "README.md": b"text\n"})
        texts = {config: parquet("text", [f"{config} {i} " * 12 for i in range(30)]) for config in configs}
        branch = {f"{config}/train/0000.parquet": content for config, content in texts.items()}
        repo.revisions["refs/convert/parquet"] = branch | {".gitattributes": b"\n"}
    tokenizer = "owner/tokenizer"
    corpora = ("openwebtext-10k", "hf:owner/two:b", "hf:owner/two")
    only, one, either = resolve(hub, tmp_path, *((corpus, 5, tokenizer) for corpus in corpora))
    assert (len(only["tokens"]), len(one["tokens"])) == (5, 5)
    assert one["tokens"] != only["tokens"]
    assert "(it has the configurations a, b: write hf:owner/two:CONFIG)" in either["error"]


@pytest.mark.nightly
def test_no_such_column(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", "owner/other", {"data/train-0.parquet": parquet("body", ["text"])})
    (column,) = resolve(hub, tmp_path, ("hf:owner/other", 1, None))
    assert "its columns: body" in column["error"]


@pytest.mark.nightly
@pytest.mark.parametrize(("faults", "row_timeout_s"), [(("cut", "short"), 600), (("stall",), 8)])
def test_a_torn_transfer(faults: tuple[Any, ...], row_timeout_s: float, hub: Hub, tmp_path: Path) -> None:
    for fault in faults:
        repo = hub.add_token_dataset(f"owner/{fault}", [[i] * 16 for i in range(500)])
        repo.faults = dict.fromkeys(repo.files, fault)
    asked = [(f"hf:owner/{fault}", 5, None) for fault in faults]
    for fault, answer in zip(faults, resolve(hub, tmp_path, *asked, row_timeout_s=row_timeout_s), strict=True):
        assert answer["error"].startswith(f"DataError: data set owner/{fault} cannot be loaded from {hub.url} (")
        assert ("no row in 8 seconds" in answer["error"]) == (fault == "stall")
    assert nothing_staged(tmp_path)


@pytest.mark.nightly
def test_a_slow_line_and_one_that_broke_once(hub: Hub, tmp_path: Path) -> None:
    hub.drip_s = 0.05
    for name, fault in (("owner/slow", "slow"), ("owner/broke", "drop-once")):
        repo = hub.add_token_dataset(name, [[i] * 16 for i in range(500)])
        repo.faults = dict.fromkeys(repo.files, fault)  # type: ignore[arg-type]
    hub.add_token_dataset("owner/good", [[i] * 16 for i in range(500)])
    slow, broke, good = resolve(hub, tmp_path, *((f"hf:owner/{n}", 5, None) for n in ("slow", "broke", "good")))
    assert slow["tokens"] == broke["tokens"] == good["tokens"]


def test_a_hub_that_is_gone(hub: Hub, tmp_path: Path) -> None:
    hub.stop()
    (answer,) = resolve(hub, tmp_path, ("gelu-mix", 5, None), streams=False)
    assert answer["error"].startswith("DataError: data set NeelNanda/c4-tokenized-2b cannot be loaded from http://")
    assert "erasure-sweep fetch" in answer["error"]
    assert "--corpus stdlib" in answer["error"]
