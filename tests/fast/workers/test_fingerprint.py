"""Digests as they are stored: another one would lose what is staged, the shards of a store, and the order of prompts."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch

from erasure_sweep.sweep.plan import digest as digest_of_values
from erasure_sweep.workers.corpora.sampling import name_key
from erasure_sweep.workers.corpora.staged_tokens import fingerprint_tokens
from erasure_sweep.workers.fingerprint import digest, fingerprint
from erasure_sweep.workers.models import known_names
from erasure_sweep.workers.models.files.staged_weights import content_hash
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.sources import find_model_files
from erasure_sweep.workers.storage.states import encode_states
from erasure_sweep.workers.train_bundled import is_held_out


def test_of_the_values_that_make_an_id():
    assert digest_of_values({"b": 1, "a": [1, 2]}) == "f587f5091b5841a33f9e6dafdf1f5e45"


def test_of_weights():
    config = ModelConfig(1, 2, 1, 2, 0, 4, 3, "gelu", True, 1e-5, 1.0)
    assert (
        content_hash(config, {"b": torch.arange(4.0).reshape(2, 2), "a": torch.ones(3)})
        == "7646c5042f39dbff43a96d89e8c21617"
    )


def test_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("erasure_sweep.workers.models.sources.processing", lambda: "2 4.3.0")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"n_layers": 1}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    assert find_model_files(str(folder)).fingerprint == "76fb8e248b4e01ed83e12cfaa4ff88bb"


def test_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known_names, "processing", lambda: "2 4.3.0")
    known_names.remember_tokenizer("gpt2", tmp_path / "tokenizers" / "x" / "tokenizer.json", tmp_path)
    (path,) = (tmp_path / "names").iterdir()
    assert path.stem == "a167bbff1d3d252ff57e95d548b5a700"
    assert json.loads(path.read_text())["check"] == "5ed396a312e5a5b54ee3e1207218cdc2"
    assert known_names.files_hash({"b.json": b"{}", "a.json": b"[]"}) == "590dac63f398642779deda4a534e715e"


def test_of_tokens():
    assert fingerprint_tokens(np.arange(6).reshape(2, 3)) == "757783d52c601ca1700077b07a788a21"


def test_that_decide_what_is_drawn():
    assert name_key(3, "a/b.py") == 12964451494787596881
    assert [i for i in range(40) if is_held_out(f"file{i}.py")] == [22, 27]


def test_of_states():
    """The shard's id is in what is hashed, and stands nowhere beside it."""
    sealed = encode_states({"dla": {"sums": np.arange(3.0)}}, "ab" * 16)
    head, rest = sealed[:22], sealed[22:]
    assert head == b"erasure-sweep state 7\n"
    assert rest[:16] == blake2b(head + b"ab" * 16 + rest[16:], digest_size=16).digest()


def test_pieces_are_one_text():
    """Of any kinds of pieces: what counts are their bytes."""
    whole = blake2b("τ = 5 %".encode(), digest_size=16)
    assert fingerprint("τ = ", b"5", memoryview(b" %")) == whole.hexdigest()
    assert digest(iter(["τ = 5 %"]), n_bytes=8) == blake2b("τ = 5 %".encode(), digest_size=8).digest()
