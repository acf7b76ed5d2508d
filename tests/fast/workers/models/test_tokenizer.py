"""Tokenizers: which special tokens are found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from erasure_sweep.workers.corpora.resolve_corpus import load_tokenizer
from erasure_sweep.workers.errors import DataError, UsageError
from tests.support.corpus_requests import write_tokenizer


class TestTokenizers:
    @pytest.mark.parametrize("bos", ["<|BOS|>", "<s>", "<|endoftext|>"])
    def test_bos_is_found(self, bos: str, tmp_path: Path) -> None:
        folder = Path(write_tokenizer(tmp_path, ("<unk>", bos)))
        for source in (folder, folder / "tokenizer.json"):
            loaded = load_tokenizer(str(source))
            assert (loaded.bos_id, loaded.separator_id) == (1, 1)

    def test_the_config_says_which(self, tmp_path: Path) -> None:
        folder = Path(write_tokenizer(tmp_path, ("<|BOS|>", "<start>", "<stop>")))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<start>", "eos_token": None}))
        (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|BOS|>", "eos_token": "<stop>"}))
        loaded = load_tokenizer(str(folder))
        assert (loaded.bos_id, loaded.separator_id) == (1, 2)

    def test_none_has_no_prompts(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no beginning-of-sequence token"):
            load_tokenizer(write_tokenizer(tmp_path, ("<unk>",)))

    def test_damaged_and_missing(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
            load_tokenizer(str(tmp_path))
        with pytest.raises(UsageError, match="there is no tokenizer at"):
            load_tokenizer(str(tmp_path / "nowhere" / "tokenizer.json"))

    def test_truncation_and_padding_of_the_file_are_off(self, tmp_path: Path) -> None:
        path = Path(write_tokenizer(tmp_path)) / "tokenizer.json"
        backend = Tokenizer.from_file(str(path))
        backend.enable_truncation(3)
        backend.enable_padding(length=9)
        backend.save(str(path))
        assert [len(ids) for ids in load_tokenizer(str(path)).encode_batch(["abcdef", "a"])] == [6, 1]
