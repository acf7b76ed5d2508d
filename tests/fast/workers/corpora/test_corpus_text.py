"""Prompts from text: the same whoever asks, exactly as long as asked for, drawn evenly from all of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from erasure_sweep.workers.corpora.resolve_corpus import load_tokenizer
from erasure_sweep.workers.corpora.sampling import Document, order_passages, pack_prompts, read_passage
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.catalog import BUNDLED
from tests.support.corpus_requests import BOS, SEQ_LEN, refusal, resolve, tokens_of, write_texts, write_tokenizer

BUNDLED_TOKENIZER = str(BUNDLED / "tokenizer")


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


class TestText:
    def test_every_prompt_is_bos_and_text_of_the_corpus(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        found = tokens_of(texts, tmp_path, tokenizer, prompts=12)
        assert found.shape == (12, SEQ_LEN)
        assert found.dtype == np.int32
        assert (found[:, 0] == BOS).all()
        whole = "".join(path.read_text() for path in sorted(texts.rglob("*.*")))
        for row in found:
            for part in load_tokenizer(tokenizer).decode(row[1:].tolist()).split("<|EOS|>"):
                assert part in whole

    def test_first_prompts_of_a_longer_run_are_the_same(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        long = tokens_of(texts, tmp_path, tokenizer, prompts=17)
        for prompts in (1, 4, 16):
            short = tokens_of(texts, tmp_path / str(prompts), tokenizer, prompts=prompts)
            assert np.array_equal(short, long[:prompts])

    def test_seed_changes_the_order(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first, other = (tokens_of(texts, tmp_path, tokenizer, prompts=12, seed=seed) for seed in (0, 1))
        assert not np.array_equal(first, other)

    def test_order_does_not_depend_on_where_the_folder_is(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        copy = tmp_path / "elsewhere"
        for path in sorted(texts.rglob("*.*"), reverse=True):
            (copy / path.relative_to(texts)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(texts)).write_bytes(path.read_bytes())
        here, there = (resolve(folder, tmp_path, tokenizer) for folder in (texts, copy))
        assert here.tokens != there.tokens
        assert here.fingerprint == there.fingerprint

    def test_a_document_more_leaves_the_others_in_order(self) -> None:
        documents = [document(f"{name}.txt", b"x" * 1000) for name in "abcd"]
        few, many = (order_passages(some, 80, seed=0) for some in (documents[:3], documents))
        assert list(zip(few.document.tolist(), few.slot.tolist(), strict=True)) == [
            pair for pair in zip(many.document.tolist(), many.slot.tolist(), strict=True) if pair[0] < 3
        ]

    def test_short_passages_are_joined_by_the_separator(self, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "short").mkdir()
        for name in "abcdefgh":
            (tmp_path / "short" / f"{name}.txt").write_text(name * 5)
        found = tokens_of(tmp_path / "short", tmp_path, tokenizer, prompts=2)
        loaded = load_tokenizer(tokenizer)
        for row in found:
            parts = loaded.decode(row[1:].tolist()).split("<|EOS|>")
            assert [len(part) for part in parts] == [5, 5, 3]
            assert all(len(set(part)) == 1 for part in parts)

    def test_without_an_end_token_the_separator_is_bos(self, tmp_path: Path) -> None:
        loaded = load_tokenizer(write_tokenizer(tmp_path, ("<|BOS|>",)))
        passages = ["ab", "", "efgh", "cd"]
        assert [prompt.ids.tolist() for prompt in pack_prompts(passages.__getitem__, 4, loaded, 6)] == [
            [loaded.bos_id, *loaded.encode_batch(["ab"])[0], loaded.bos_id, *loaded.encode_batch(["cd"])[0]]
        ]

    def test_a_special_token_in_the_text_is_text(self, tokenizer: str) -> None:
        loaded = load_tokenizer(tokenizer)
        ids = loaded.encode_batch(["a<|BOS|>b"])[0]
        assert BOS not in ids
        assert loaded.decode(ids) == "a<|BOS|>b"
        assert loaded.token_strings([BOS, *ids[:2]]) == ["<|BOS|>", "a", "<"]

    def test_prompts_begin_with_the_same_text_whatever_the_tokenizer(
        self, texts: Path, tmp_path: Path, tokenizer: str
    ) -> None:
        (texts / "blank.txt").write_text(" \n" * 300)
        by_bytes, by_pieces = (begins(texts, tmp_path, source) for source in (tokenizer, BUNDLED_TOKENIZER))
        assert len(by_bytes) > len(by_pieces) > 4, "larger tokens fill fewer prompts"
        for one, other in zip(by_bytes, by_pieces, strict=False):
            n_shared = min(len(one), len(other))
            assert n_shared > 10
            assert one[:n_shared] == other[:n_shared]

    def test_blank_text_counts_for_nothing(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        before = tokens_of(texts, tmp_path, tokenizer, prompts=12)
        (texts / "blank.txt").write_text(" \n" * 300)
        assert tokens_of(texts, tmp_path, tokenizer, prompts=12).tolist() == before.tolist()

    def test_too_few_prompts(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        message = refusal(UsageError, texts, tmp_path, tokenizer, prompts=1000)
        available = int(message.split(" has ")[1].split()[0])
        assert len(tokens_of(texts, tmp_path, tokenizer, prompts=available)) == available
        assert f"--prompts {available}" in message
        (tmp_path / "short.txt").write_text("short")
        message = refusal(UsageError, tmp_path / "short.txt", tmp_path, tokenizer)
        assert "has 0 prompts of 16 tokens, 4 were asked for: give a shorter --seq-len or more text" in message

    def test_no_tokenizer(self, texts: Path, tmp_path: Path) -> None:
        assert ".npy" in refusal(UsageError, texts, tmp_path)

    def test_tokenizer_of_another_model(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        assert "257" in refusal(DataError, texts, tmp_path, tokenizer, d_vocab=257)

    @pytest.mark.parametrize(
        ("content", "told"),
        [(b"caf\xe9 " * 50, "byte 0xe9 at offset"), (b"\x7fELF\0\0" * 50, "a zero byte at offset")],
    )
    def test_rubbish_is_refused(self, content: bytes, told: str, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "rubbish.txt").write_bytes(content)
        message = refusal(DataError, tmp_path / "rubbish.txt", tmp_path, tokenizer, prompts=1)
        assert "rubbish.txt" in message
        assert told in message

    def test_a_file_that_cannot_be_opened(self, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "gone.txt").symlink_to(tmp_path / "nowhere")
        assert "gone.txt cannot be read" in refusal(DataError, tmp_path / "folder", tmp_path, tokenizer)

    def test_empty_folder_and_empty_files(self, tmp_path: Path, tokenizer: str) -> None:
        folder = tmp_path / "folder"
        (folder / ".hidden").mkdir(parents=True)
        (folder / ".hidden" / "a.txt").write_text("text\n" * 100)
        (folder / ".b.txt").write_text("text\n" * 100)
        (folder / "picture.png").write_bytes(b"\x89PNG")
        assert "holds no text" in refusal(UsageError, folder, tmp_path, tokenizer)
        (folder / "empty.txt").touch()
        assert "has 0 prompts" in refusal(UsageError, folder, tmp_path, tokenizer)


def begins(corpus: Path, tmp_path: Path, tokenizer: str) -> list[str]:
    """The text that each prompt begins with, up to the next passage."""
    found = tokens_of(corpus, tmp_path, tokenizer, prompts=500, least=1, d_vocab=100_000)
    loaded = load_tokenizer(tokenizer)
    rows = [row[1:].tolist() for row in found]
    ends = [row.index(loaded.separator_id) if loaded.separator_id in row else len(row) for row in rows]
    return [loaded.decode(row[:end]) for row, end in zip(rows, ends, strict=True)]


def document(name: str, content: bytes) -> Document:
    return Document(name, len(content), lambda start, stop: content[start:stop])


class TestPassages:
    @pytest.mark.parametrize(
        "text",
        [
            "".join(f"line {i} {'x' * (i % 23)}\n" for i in range(200)),
            "one line without an end " * 100,
            "x" * 3000,
            "äöü€𝄞" * 300,
            "\n" * 500,
            "short",
            "ends in the very last slot\n" + "y" * 101,
        ],
    )
    @pytest.mark.parametrize("width", [10, 64, 80])
    def test_every_character_lies_in_exactly_one(self, text: str, width: int) -> None:
        whole = document("d", text.encode())
        n_slots = -(-whole.n_bytes // width)
        passages = [read_passage(whole, slot, width) for slot in range(n_slots)]
        assert "".join(passages) == text
        assert max(len(passage.encode()) for passage in passages) <= 2 * width

    def test_they_begin_at_lines(self) -> None:
        text = "".join(f"line {i}\n" for i in range(100))
        whole = document("d", text.encode())
        assert all(read_passage(whole, slot, 64).startswith("line") for slot in range(-(-whole.n_bytes // 64)))

    def test_a_byte_order_mark_is_no_text(self) -> None:
        assert read_passage(document("d", b"\xef\xbb\xbfabc"), 0, 80) == "abc"

    def test_text_is_drawn_in_proportion_to_its_length(self) -> None:
        """Of the first quarter of all passages each document has its share, in every seed."""
        documents = [document("long", b"x" * 80_000), document("middle", b"x" * 16_000)]
        documents += [document(f"short {i}", b"x" * 80) for i in range(400)]
        shares = Counter[str]()
        for seed in range(20):
            drawn = order_passages(documents, 80, seed).document[:400]
            shares.update("short" if i > 1 else documents[i].name for i in drawn.tolist())
        total = 20 * 400
        assert shares["long"] / total == pytest.approx(1000 / 1600, abs=0.02)
        assert shares["middle"] / total == pytest.approx(200 / 1600, abs=0.02)
        assert shares["short"] / total == pytest.approx(400 / 1600, abs=0.02)

    def test_every_place_of_a_document_comes_equally_early(self) -> None:
        slots = [order_passages([document("d", b"x" * 8000)], 80, seed).slot[:10] for seed in range(200)]
        counts = np.histogram(np.concatenate(slots), bins=10, range=(0, 100))[0]
        assert counts.min() > 150
        assert counts.max() < 250
