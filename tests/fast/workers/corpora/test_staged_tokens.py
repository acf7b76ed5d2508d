"""The staged array: found again when nothing changed, made again when damaged, drawn once, cut for shorter requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from erasure_sweep.workers.corpora import resolve_corpus as corpora
from erasure_sweep.workers.corpora.resolve_corpus import CorpusRequest, load_tokens
from erasure_sweep.workers.corpora.sampling import DrawnPrompts
from erasure_sweep.workers.corpora.staged_tokens import write_tokens
from erasure_sweep.workers.errors import DataError, UsageError
from tests.support.corpus_requests import corpus_of, refusal, resolve, tokens_of, write_texts, write_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


def visible(folder: Path) -> list[str]:
    """Endings of the files in a folder; those that processes lock are hidden."""
    return [path.suffix for path in folder.iterdir() if path.suffix != ".lock"]


class TestStaging:
    def test_it_is_made_once(
        self, texts: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = resolve(texts, tmp_path, tokenizer)
        assert first.tokens.parent == tmp_path / "staging" / "corpora"
        assert sorted(visible(first.tokens.parent)) == [".json", ".npy"]
        monkeypatch.setattr(corpora, "_stage", lambda *_: pytest.fail("made again"))
        assert resolve(texts, tmp_path, tokenizer) == first

    @pytest.mark.parametrize("keep", [0, 60, -4])
    def test_a_torn_array_is_made_again(self, keep: int, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(texts, tmp_path, tokenizer)
        content = first.tokens.read_bytes()
        first.tokens.write_bytes(content[:keep])
        assert resolve(texts, tmp_path, tokenizer) == first
        assert first.tokens.read_bytes() == content

    @pytest.mark.parametrize("record", ["", "[]", "{}", '{"fingerprint": "0"}'])
    def test_a_torn_record_is_made_again(self, record: str, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(texts, tmp_path, tokenizer)
        first.tokens.with_suffix(".json").write_text(record)
        assert resolve(texts, tmp_path, tokenizer) == first

    def test_flipped_ids_are_noticed(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(texts, tmp_path, tokenizer)
        content = bytearray(first.tokens.read_bytes())
        content[-4] ^= 1
        first.tokens.write_bytes(content)
        assert resolve(texts, tmp_path, tokenizer) == first
        assert corpora.fingerprint_tokens(load_tokens(first.tokens)) == first.fingerprint

    def test_what_determines_it(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(texts, tmp_path, tokenizer)
        other = write_tokenizer(tmp_path / "other", ("<|EOS|>", "<|BOS|>"))
        assert resolve(texts, tmp_path, other).tokens != first.tokens
        for path in texts.rglob("*.*"):
            path.write_text("changed\n" * 100)
        changed = resolve(texts, tmp_path, tokenizer)
        assert changed.tokens != first.tokens
        assert changed.fingerprint != first.fingerprint

    def test_a_folder_that_cannot_be_written(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "staging").write_text("a file is in the way")
        assert "cannot be written" in refusal(DataError, texts, tmp_path, tokenizer)

    def test_nothing_is_left_of_a_write_that_failed(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        def no_room(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("numpy.save", no_room)
            assert "No space left on device" in refusal(DataError, texts, tmp_path, tokenizer)
        assert visible(tmp_path / "staging" / "corpora") == []

    def test_fingerprint_tells_shapes_apart_and_not_types(self) -> None:
        flat = np.arange(12)
        assert corpora.fingerprint_tokens(flat.reshape(3, 4)) != corpora.fingerprint_tokens(flat.reshape(4, 3))
        assert corpora.fingerprint_tokens(flat.reshape(3, 4)) == corpora.fingerprint_tokens(
            flat.reshape(3, 4).astype(">i2")
        )


class TestOneArrayServesSeveral:
    """The first N prompts of a longer request are those of a request for N."""

    @pytest.fixture(params=["array", "text", "rows"])
    def corpus(self, request: pytest.FixtureRequest, tmp_path: Path, texts: Path) -> Path:
        return corpus_of(request.param, tmp_path, texts)

    @pytest.fixture
    def no_draws(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        return lambda: monkeypatch.setattr(corpora, "_stage", lambda *_: pytest.fail("drawn again"))

    def test_a_shorter_one_is_cut(
        self, corpus: Path, tmp_path: Path, tokenizer: str, no_draws: Callable[[], None]
    ) -> None:
        drawn = resolve(corpus, tmp_path / "new", tokenizer, prompts=4)
        for prompts in (7, 10):
            long = resolve(corpus, tmp_path, tokenizer, prompts=prompts)
        no_draws()
        cut = resolve(corpus, tmp_path, tokenizer, prompts=4)
        assert cut._replace(tokens=drawn.tokens) == drawn
        assert cut.tokens.read_bytes() == drawn.tokens.read_bytes()
        assert resolve(corpus, tmp_path, tokenizer, prompts=4) == cut
        assert resolve(corpus, tmp_path, tokenizer, prompts=10) == long
        assert len(visible(cut.tokens.parent)) == 2 * 3

    def test_it_is_not_written_again(self, corpus: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(corpus, tmp_path, tokenizer, prompts=4)
        written = first.tokens.stat().st_mtime_ns, first.tokens.stat().st_ino
        resolve(corpus, tmp_path, tokenizer, prompts=10)
        again = resolve(corpus, tmp_path, tokenizer, prompts=4)
        assert (again.tokens.stat().st_mtime_ns, again.tokens.stat().st_ino) == written

    def test_a_damaged_one_serves_nobody(self, corpus: Path, tmp_path: Path, tokenizer: str) -> None:
        long = resolve(corpus, tmp_path, tokenizer, prompts=10)
        content = bytearray(long.tokens.read_bytes())
        content[-4] ^= 1
        long.tokens.write_bytes(content)
        found = tokens_of(corpus, tmp_path, tokenizer, prompts=9)
        assert found.tolist() == tokens_of(corpus, tmp_path / "new", tokenizer, prompts=9).tolist()

    def test_all_that_there_is_serves_whoever_needs_no_more(
        self, corpus: Path, tmp_path: Path, tokenizer: str, no_draws: Callable[[], None]
    ) -> None:
        whole = resolve(corpus, tmp_path, tokenizer, prompts=500, least=4)
        no_draws()
        assert resolve(corpus, tmp_path, tokenizer, prompts=600, least=10) == whole
        assert resolve(corpus, tmp_path, tokenizer, prompts=400, least=10).n_prompts == whole.n_prompts
        assert resolve(corpus, tmp_path, tokenizer, prompts=5, least=5).n_prompts == 5

    def test_not_whoever_needs_more(self, corpus: Path, tmp_path: Path, tokenizer: str) -> None:
        resolve(corpus, tmp_path, tokenizer, prompts=500, least=4)
        assert "500 were asked for" in refusal(UsageError, corpus, tmp_path, tokenizer, prompts=500)
        assert resolve(corpus, tmp_path / "new", tokenizer, prompts=4).n_prompts == 4
        assert resolve(corpus, tmp_path / "new", tokenizer, prompts=10, least=4).n_prompts == 10

    def test_other_lengths_and_seeds_are_others(self, texts: Path, tmp_path: Path, tokenizer: str) -> None:
        first = resolve(texts, tmp_path, tokenizer, prompts=10)
        for changes in ({"seq_len": 15}, {"seed": 1}, {"d_vocab": 300}):
            other = resolve(texts, tmp_path, tokenizer, prompts=4, **changes)
            assert other.tokens.name.split("-")[0] != first.tokens.name.split("-")[0]


def test_one_draws_and_the_others_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(NamedTuple):
        identity: tuple[str, ...] = ("slow",)
        needs_tokenizer: bool = False

        def draw(self, request: CorpusRequest, tokenizer: object) -> DrawnPrompts:
            draws.append(request)
            time.sleep(0.2)
            return DrawnPrompts(np.arange(request.prompts * request.seq_len).reshape(request.prompts, -1), "numbers")

    draws: list[CorpusRequest] = []
    monkeypatch.setattr(corpora, "find_corpus", lambda name: Slow())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: resolve("slow", tmp_path), range(4)))
    assert len(draws) == 1
    assert set(found) == {found[0]}


def test_an_array_with_repeats_that_another_version_staged_is_drawn_again(tmp_path: Path) -> None:
    rows = np.arange(64).reshape(4, 16)
    np.save(tmp_path / "ready.npy", rows[[0, 0, 1, 2, 3]])
    staged = resolve(tmp_path / "ready.npy", tmp_path)
    key, _, asked = staged.tokens.stem.partition("-")
    request = CorpusRequest(str(tmp_path / "ready.npy"), int(asked), 16, 0)
    write_tokens(staged.tokens.parent, key, request, DrawnPrompts(rows[[0, 0, 1, 2]], "as it was"))
    assert tokens_of(tmp_path / "ready.npy", tmp_path).tolist() == rows.tolist()
