"""Tokenizers: which special tokens are found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import (
    ByteLevelBPETokenizer,
    Regex,
    SentencePieceBPETokenizer,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)

from erasure_sweep.workers.corpora.resolve_corpus import load_tokenizer
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.tokenizer import _FastTokenizer
from tests.support.corpus_requests import write_tokenizer

RUNAWAY = "(?:(?:a+)+)+$|(a|aa)+$"
"""A pattern that tries every way to split a row of a's."""


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

    def test_without_bos(self, tmp_path: Path) -> None:
        loaded = load_tokenizer(write_tokenizer(tmp_path / "neither", ("<unk>",)))
        assert (loaded.bos_id, loaded.separator_id) == (None, None)
        loaded = load_tokenizer(write_tokenizer(tmp_path / "end", ("<unk>", "<|EOS|>")))
        assert (loaded.bos_id, loaded.separator_id) == (None, 1)

    def test_damaged_and_missing(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
            load_tokenizer(str(tmp_path))
        with pytest.raises(UsageError, match="there is no tokenizer at"):
            load_tokenizer(str(tmp_path / "nowhere" / "tokenizer.json"))

    def test_vocabulary_and_merges_without_a_class(self, tmp_path: Path) -> None:
        """Beside a config of TransformerLens' nothing says how they are to be read, until the user does."""
        backend = ByteLevelBPETokenizer()
        backend.train_from_iterator(["hello world"] * 9, vocab_size=280, special_tokens=["<|endoftext|>"])
        backend.save_model(str(tmp_path))
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(
            DataError, match=r"no tokenizer that can be read in .*name its class in tokenizer_config\.json"
        ):
            load_tokenizer(str(tmp_path))
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        assert load_tokenizer(str(tmp_path)).encode_batch(["hello world"]) == [backend.encode("hello world").ids]

    def test_a_class_without_its_vocabulary(self, tmp_path: Path) -> None:
        """transformers makes one that gives no ids for any text."""
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        with pytest.raises(DataError, match="has no vocabulary: put "):
            load_tokenizer(str(tmp_path))

    def test_truncation_and_padding_of_the_file_are_off(self, tmp_path: Path) -> None:
        path = Path(write_tokenizer(tmp_path)) / "tokenizer.json"
        backend = Tokenizer.from_file(str(path))
        backend.enable_truncation(3)
        backend.enable_padding(length=9)
        backend.save(str(path))
        assert [len(ids) for ids in load_tokenizer(str(path)).encode_batch(["abcdef", "a"])] == [6, 1]


class TestTokensForPeople:
    """A token's text is what it adds to a text, spaces included."""

    def test_sentencepiece(self) -> None:
        backend = SentencePieceBPETokenizer()
        backend.train_from_iterator(["the cat sat on the mat"] * 9, vocab_size=60, special_tokens=["<unk>", "<s>"])
        loaded = _FastTokenizer(backend._tokenizer, {}, "here")
        ids = loaded.encode_batch(["the cat on"])[0]
        assert loaded.token_strings(ids) == [" the", " cat", " on"]
        assert "".join(loaded.token_strings(ids)) == " the cat on"

    def test_bytes_and_spaces_as_llama_has_them(self) -> None:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "a", "▁a"]
        vocab = {piece: index for index, piece in enumerate(pieces)}
        backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
        backend.add_special_tokens(["<s>", "</s>"])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(parts)
        loaded = _FastTokenizer(backend, {}, "here")
        shown = loaded.token_strings([1, *(vocab[piece] for piece in ("▁", "▁▁", "a", "▁a", "<0x0A>", "<0xC3>"))])
        assert shown == ["<s>", " ", "  ", "a", " a", "\n", "<0xC3>"]

    def test_bytes_as_gpt2_has_them(self, tmp_path: Path) -> None:
        backend = Tokenizer.from_file(str(Path(write_tokenizer(tmp_path)) / "tokenizer.json"))
        backend.add_special_tokens(["<｜end▁of▁text｜>"])
        loaded = _FastTokenizer(backend, {}, "here")
        ids = loaded.encode_batch([" aé\n"])[0]
        assert loaded.token_strings(ids) == [" ", "a", "\ufffd", "\ufffd", "\n"]
        assert loaded.token_strings([backend.token_to_id("<｜end▁of▁text｜>"), 9999]) == ["<｜end▁of▁text｜>", ""]


def test_a_pattern_that_runs_away_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(write_tokenizer(tmp_path)) / "tokenizer.json"
    backend = Tokenizer.from_file(str(path))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(RUNAWAY), "isolated")
    backend.save(str(path))
    loaded = load_tokenizer(str(path))
    with pytest.raises(DataError, match=r"tokenizer .*tokenizer\.json fails on a text of the corpus") as refused:
        loaded.encode_batch(["a" * 60 + "!"] * 40)
    assert "\n" not in str(refused.value)
    assert loaded.encode_batch(["b"]) == [[loaded.encode_batch(["b"])[0][0]]]
    assert capfd.readouterr().err == ""


def test_a_name_that_no_repository_can_have() -> None:
    with pytest.raises(DataError, match="no repository can have this name"):
        load_tokenizer("î")
