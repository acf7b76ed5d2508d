"""Names, arrays and requests: taken as they are, refused in one line when unusable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from erasure_sweep.workers.corpora import resolve_corpus as corpora
from erasure_sweep.workers.corpora.hub_sets import parse_hub_corpus
from erasure_sweep.workers.corpora.resolve_corpus import load_tokens
from erasure_sweep.workers.corpora.text_files import find_files
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from tests.support.corpus_requests import (
    BOS,
    D_VOCAB,
    SEQ_LEN,
    corpus_of,
    refusal,
    resolve,
    tokens_of,
    write_texts,
    write_tokenizer,
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


class TestStandardLibrary:
    def test_it_is_read(self, tmp_path: Path, tokenizer: str) -> None:
        found = resolve("stdlib", tmp_path, tokenizer, prompts=8)
        assert found.description.startswith("stdlib: ")
        assert (load_tokens(found.tokens)[:, 0] == BOS).all()

    def test_its_files(self) -> None:
        files = dict(corpora.standard_library_files())
        assert files["os.py"] == Path(os.__file__)
        assert "json/decoder.py" in files
        assert not any("site-packages" in name for name in files)
        assert list(files) == sorted(files)


class TestArray:
    def array(self, tmp_path: Path, array: object) -> Path:
        np.save(tmp_path / "ready.npy", array)  # type: ignore[arg-type]
        return tmp_path / "ready.npy"

    @pytest.mark.parametrize("dtype", ["<i8", ">i4", "u2", "u8"])
    def test_it_is_taken_as_it_is(self, dtype: str, tmp_path: Path) -> None:
        array = np.arange(6 * 20).reshape(6, 20).astype(dtype)
        found = tokens_of(self.array(tmp_path, array), tmp_path, seed=9)
        assert found.tolist() == array[:4, :SEQ_LEN].tolist()

    def test_a_tokenizer_is_not_looked_at(self, tmp_path: Path) -> None:
        assert resolve(self.array(tmp_path, np.arange(64).reshape(4, 16)), tmp_path, "not/there").n_prompts == 4

    @pytest.mark.parametrize(
        ("kind", "array", "told"),
        [
            (UsageError, np.arange(48).reshape(3, 16), "has 3 prompts"),
            (UsageError, np.zeros((4, 15), int), "15 tokens per prompt"),
            (DataError, np.zeros((4, 16)), "float64"),
            (DataError, np.zeros((4, 16), bool), "bool"),
            (DataError, np.zeros(64, int), "shape (64,)"),
            (DataError, np.zeros((4, 16), object), "damaged or no .npy"),
        ],
    )
    def test_another_shape_or_type(self, kind: type[SweepError], array: object, told: str, tmp_path: Path) -> None:
        assert told in refusal(kind, self.array(tmp_path, array), tmp_path)

    @pytest.mark.parametrize("bad", [-1, D_VOCAB, 2**40])
    def test_ids_beyond_the_vocabulary(self, bad: int, tmp_path: Path) -> None:
        array = np.arange(64).reshape(4, 16)
        array[2, 5] = bad
        message = refusal(DataError, self.array(tmp_path, array), tmp_path)
        assert f"token id {bad} at prompt 2, position 5" in message
        assert f"0 to {D_VOCAB - 1}" in message
        assert not list((tmp_path / "staging").rglob("*.npy"))

    def test_ids_beyond_what_is_used_do_not_matter(self, tmp_path: Path) -> None:
        array = np.arange(85).reshape(5, 17)
        array[4], array[:, 16] = 9999, 9999
        assert tokens_of(self.array(tmp_path, array), tmp_path).tolist() == array[:4, :16].tolist()

    def test_rows_that_repeat_others_are_left_out(self, tmp_path: Path) -> None:
        rows = np.arange(48).reshape(3, 16)
        found = resolve(self.array(tmp_path, rows[[0, 1, 0, 0, 2, 1]]), tmp_path, prompts=6)
        assert load_tokens(found.tokens).tolist() == rows.tolist()
        assert (found.n_prompts, found.n_repeats) == (3, 3)
        assert found.description.endswith("taken in order; 3 that repeat others were left out")
        again = resolve(tmp_path / "ready.npy", tmp_path, prompts=5)
        assert (again.n_prompts, again.n_repeats) == (3, 3), "what was staged says how many there are"
        assert "has 3 distinct prompts" in refusal(UsageError, tmp_path / "ready.npy", tmp_path, prompts=7)

    @pytest.mark.parametrize("keep", [0, 5, 100, -8])
    def test_torn_file(self, keep: int, tmp_path: Path) -> None:
        path = self.array(tmp_path, np.zeros((4, 16), int))
        path.write_bytes(path.read_bytes()[:keep])
        assert "ready.npy is damaged" in refusal(DataError, path, tmp_path)
        with pytest.raises(DataError, match="the token array is damaged"):
            load_tokens(path.read_bytes())

    def test_an_archive(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "several.npz", a=np.zeros(3))
        (tmp_path / "several.npz").rename(tmp_path / "several.npy")
        assert "archive" in refusal(DataError, tmp_path / "several.npy", tmp_path)

    def test_bytes_are_read_too(self, tmp_path: Path) -> None:
        path = self.array(tmp_path, np.arange(6).reshape(2, 3))
        assert load_tokens(path.read_bytes()).tolist() == [[0, 1, 2], [3, 4, 5]]


class TestRequests:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"seq_len": 513}, "give 512 or less"),
            ({"seq_len": 1}, "give 2 or more"),
            ({"prompts": 0}, "give 1 or more"),
        ],
    )
    def test_impossible_ones(self, changes: dict[str, int], told: str, tmp_path: Path) -> None:
        assert told in refusal(UsageError, "stdlib", tmp_path, **changes)

    def test_unknown_names(self, tmp_path: Path) -> None:
        assert "did you mean stdlib?" in refusal(UsageError, "stdlb", tmp_path)
        assert "did you mean c4-tokenized-2b" in refusal(UsageError, "c4-tokenised", tmp_path)
        assert "known: " in refusal(UsageError, "/no/such/file.npy", tmp_path)
        for name in ("hf:a:b:c:d", "hf:", "hf:a/b/c", "hf:a b", "hf:../x/y"):
            assert "hf:REPO[:CONFIG][:SPLIT]" in refusal(UsageError, name, tmp_path)

    def test_own_is_no_corpus_and_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("own").write_text("text\n" * 1000)
        assert "each model's own training mix" in refusal(UsageError, "own", tmp_path)

    def test_a_known_name_goes_before_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("stdlib").write_text("text")
        assert corpora.find_corpus("stdlib").identity[1] == "stdlib"

    def test_hub_names(self) -> None:
        assert parse_hub_corpus("hf:a/b") == ("a/b", None, "train", None)
        assert parse_hub_corpus("hf:a/b:en") == ("a/b", "en", "train", None)
        assert parse_hub_corpus("hf:a/b::test") == ("a/b", None, "test", None)


class TestFewerThanAsked:
    """Where fewer are enough, what there is is taken."""

    @pytest.fixture(params=["array", "text", "rows"])
    def corpus(self, request: pytest.FixtureRequest, tmp_path: Path, texts: Path) -> Path:
        return corpus_of(request.param, tmp_path, texts)

    def test_what_there_is_is_taken(self, corpus: Path, tmp_path: Path, tokenizer: str) -> None:
        whole = resolve(corpus, tmp_path, tokenizer, prompts=500, least=4)
        assert 10 <= whole.n_prompts < 500
        assert len(load_tokens(whole.tokens)) == whole.n_prompts
        some = tokens_of(corpus, tmp_path / "new", tokenizer, prompts=4)
        assert some.tolist() == load_tokens(whole.tokens)[:4].tolist()
        assert resolve(corpus, tmp_path, tokenizer, prompts=6, least=4).n_prompts == 6

    def test_it_is_found_again(
        self, corpus: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = resolve(corpus, tmp_path, tokenizer, prompts=500, least=4)
        monkeypatch.setattr(corpora, "_stage", lambda *_: pytest.fail("made again"))
        assert resolve(corpus, tmp_path, tokenizer, prompts=500, least=4) == first

    def test_too_few_are_refused(self, corpus: Path, tmp_path: Path, tokenizer: str) -> None:
        message = refusal(UsageError, corpus, tmp_path, tokenizer, prompts=500, least=400)
        assert "400 were asked for: give --prompts " in message


def test_local_corpora_need_neither_torch_nor_datasets() -> None:
    """The command line offers corpora by name, and must answer at once."""
    script = (
        "import sys, erasure_sweep.workers.corpora.resolve_corpus\n"
        "print(sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    root = Path(corpora.__file__).parents[1]
    finished = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"


def test_files_of_a_folder_are_in_path_order(texts: Path) -> None:
    assert [file.name for file in find_files(texts).files] == ["a.txt", "b.md", "sub/c.py"]
