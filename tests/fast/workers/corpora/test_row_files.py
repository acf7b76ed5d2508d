"""Rows of text or ready tokens, in files and streamed from a hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import datasets
import numpy as np
import pytest
import torch

from erasure_sweep.workers.corpora import hub_sets as corpus_hub
from erasure_sweep.workers.corpora.hub_sets import torch_permutation
from erasure_sweep.workers.corpora.resolve_corpus import load_tokenizer
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.catalog import BUNDLED
from tests.support.corpus_requests import BOS, SEQ_LEN, refusal, tokens_of, write_rows, write_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
class TestRows:
    def test_texts(self, suffix: str, tmp_path: Path, tokenizer: str) -> None:
        rows: list[dict[str, object]] = [{"id": i, "text": f"ünique {i} " * 9} for i in range(30)]
        rows += [{"id": 30, "text": ""}, {"id": 31, "text": None}]
        path = write_rows(tmp_path / f"rows{suffix}", rows)
        found = tokens_of(path, tmp_path, tokenizer, prompts=20)
        assert np.array_equal(tokens_of(path, tmp_path / "new", tokenizer, prompts=5), found[:5])
        decoded = [load_tokenizer(tokenizer).decode(row[1:].tolist()) for row in found]
        assert len(set(decoded)) > 10
        whole = "\n".join(str(row["text"]) for row in rows)
        parts = [part for text in decoded for part in text.rstrip("\ufffd").split("<|EOS|>")]
        assert all(part in whole for part in parts)

    def test_tokens(self, suffix: str, tmp_path: Path) -> None:
        rows: list[dict[str, object]] = [{"text": "x", "tokens": [i] * (10 + i)} for i in range(30)]
        path = write_rows(tmp_path / f"rows{suffix}", rows)
        found = tokens_of(path, tmp_path, prompts=24)
        assert sorted(found[:, 0].tolist()) == list(range(6, 30))
        assert (found == found[:, :1]).all()
        assert np.array_equal(tokens_of(path, tmp_path / "new", prompts=5), found[:5])
        assert found[:, 0].tolist() != sorted(found[:, 0].tolist())
        assert not np.array_equal(tokens_of(path, tmp_path, prompts=24, seed=1), found)
        assert "has 24 prompts" in refusal(UsageError, path, tmp_path, prompts=25)

    def test_neither(self, suffix: str, tmp_path: Path, tokenizer: str) -> None:
        path = write_rows(tmp_path / f"rows{suffix}", [{"body": "x", "title": "y"}])
        message = refusal(DataError, path, tmp_path, tokenizer)
        assert f"rows{suffix}" in message
        assert "its columns: body, title" in message

    def test_other_types(self, suffix: str, tmp_path: Path, tokenizer: str) -> None:
        path = write_rows(tmp_path / f"a{suffix}", [{"text": 5}])
        assert "not" in refusal(DataError, path, tmp_path, tokenizer)
        path = write_rows(tmp_path / f"b{suffix}", [{"tokens": "abc"}])
        assert "not lists of ids" in (m := refusal(DataError, path, tmp_path)) or "not a list of ids" in m
        path = write_rows(tmp_path / f"c{suffix}", [{"tokens": [0.5] * 16}])
        assert "token 0 is 0.5, not an integer id" in refusal(DataError, path, tmp_path, prompts=1)

    def test_damaged(self, suffix: str, tmp_path: Path, tokenizer: str) -> None:
        path = write_rows(tmp_path / f"rows{suffix}", [{"text": "abc " * 30} for _ in range(40)])
        path.write_bytes(path.read_bytes()[:-9])
        assert f"rows{suffix}" in refusal(DataError, path, tmp_path, tokenizer)

    def test_a_mixture(self, suffix: str, tmp_path: Path, tokenizer: str) -> None:
        (tmp_path / "mixed").mkdir()
        write_rows(tmp_path / "mixed" / f"b{suffix}", [{"tokens": [1] * 16}])
        (tmp_path / "mixed" / "c.txt").write_text("text\n" * 100)
        assert "mixes ready tokens" in refusal(DataError, tmp_path / "mixed", tmp_path, tokenizer)
        (tmp_path / "mixed" / "a.txt").write_text("text\n" * 100)
        assert "mixes ready tokens" in refusal(DataError, tmp_path / "mixed", tmp_path, tokenizer)


def test_bad_json_is_named_by_line(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "abc"}\n{"text": \n')
    assert "rows.jsonl:2 is not valid JSON" in refusal(DataError, path, tmp_path, tokenizer)
    path.write_text('{"text": "abc"}\n[1]\n')
    assert "rows.jsonl:2 is not a JSON object" in refusal(DataError, path, tmp_path, tokenizer)
    path.write_text('{"text": "abc"}\n{"other": 1}\n')
    assert "rows.jsonl:2 has no text" in refusal(DataError, path, tmp_path, tokenizer)
    path.write_text("\n")
    assert "holds no rows" in refusal(DataError, path, tmp_path, tokenizer)


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: dict[str, list[dict[str, object]]]) -> list[str]:
    """Let ``datasets`` stream the rows given for each data set; returns the names asked for, as they are asked."""
    asked: list[str] = []

    def load_dataset(repo: str, config: str | None, *, split: str, streaming: bool) -> datasets.IterableDataset:
        assert streaming
        assert split == "train"
        asked.append(repo)
        if repo not in rows:
            raise ConnectionError(f"Couldn't reach '{repo}' on the Hub\nmore lines")
        return datasets.IterableDataset.from_generator(lambda: iter(rows[repo]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(corpus_hub, "probe", lambda repo: None)
    return asked


class TestHub:
    def test_ready_tokens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows: list[dict[str, object]] = [{"tokens": [i] * (8 if i % 5 == 0 else 32)} for i in range(200)]
        asked = fake_hub(monkeypatch, {"NeelNanda/code-tokenized": rows})
        found = tokens_of("code-tokenized", tmp_path, prompts=100)
        assert found.shape == (100, SEQ_LEN)
        assert len(set(found[:, 0].tolist())) == 100
        assert not any(i % 5 == 0 for i in found[:, 0].tolist())
        assert np.array_equal(tokens_of("code-tokenized", tmp_path / "new", prompts=9), found[:9])
        assert not np.array_equal(tokens_of("code-tokenized", tmp_path, prompts=100, seed=1), found)
        assert np.array_equal(tokens_of("code-tokenized", tmp_path, prompts=9), found[:9])
        assert len(asked) == 3, "the last one was cut from what was staged"
        assert "has 160 prompts" in refusal(UsageError, "code-tokenized", tmp_path, prompts=161)

    def test_texts(self, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_hub(monkeypatch, {"o/n": [{"text": f"document {i} " * 9} for i in range(40)], "e/e": []})
        found = tokens_of("hf:o/n", tmp_path, tokenizer, prompts=20)
        assert (found[:, 0] == BOS).all()
        assert np.array_equal(tokens_of("hf:o/n", tmp_path / "new", tokenizer, prompts=3), found[:3])
        assert ".npy" in refusal(UsageError, "hf:o/n", tmp_path)
        assert "holds no rows" in refusal(DataError, "hf:e/e", tmp_path, tokenizer)

    def test_texts_begin_prompts_alike_whatever_the_tokenizer(
        self, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = [
            " \n" * 60 if i % 7 == 0 else "".join(f"{i * 4 + k} is a line of document {i}\n" for k in range(4))
            for i in range(40)
        ]
        fake_hub(monkeypatch, {"o/n": [{"text": text} for text in texts]})
        begun = []
        for source in (tokenizer, str(BUNDLED / "tokenizer")):
            loaded = load_tokenizer(source)
            found = tokens_of("hf:o/n", tmp_path, source, prompts=12, d_vocab=100_000)
            begun.append([loaded.decode(row[1:].tolist()) for row in found])
        assert all(one[:12].strip() and other.startswith(one[:12]) for one, other in zip(*begun, strict=True))

    def test_gated_files_behind_an_open_listing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(repo: str, *_: object, **__: object) -> NoReturn:
            told = f"Dataset '{repo}' is a gated dataset on the Hub. You must be authenticated to access it."
            raise datasets.exceptions.DatasetNotFoundError(told)

        fake_hub(monkeypatch, {})
        monkeypatch.setattr(datasets, "load_dataset", refused)
        message = refusal(DataError, "hf:o/n", tmp_path)
        assert message.startswith(
            "data set o/n is gated: accept its terms on https://huggingface.co/datasets/o/n, then"
        )

    def test_no_row_in_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stalls() -> Iterator[dict[str, object]]:
            yield {"tokens": [1] * 16}
            threading.Event().wait()

        fake_hub(monkeypatch, {})
        monkeypatch.setattr(corpus_hub.HubCorpus, "_shuffled", lambda *_: stalls())
        monkeypatch.setattr(corpus_hub, "ROW_TIMEOUT_S", 0.2)
        assert "(no row in 0 seconds)" in refusal(DataError, "hf:o/n", tmp_path)
        assert not list(tmp_path.rglob("*.npy"))

    def test_out_of_reach(self, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_hub(monkeypatch, {})
        message = refusal(DataError, "pile-10k", tmp_path, tokenizer)
        assert "NeelNanda/pile-10k cannot be loaded" in message
        assert "--corpus stdlib" in message
        asked = fake_hub(monkeypatch, {})
        assert "has no tokenizer" in refusal(UsageError, "pile-10k", tmp_path)
        assert asked == [], "found before anything is fetched"

    def test_rows_of_another_type(self, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_hub(monkeypatch, {"a/a": [{"tokens": "abc"}], "b/b": [{"text": 5}], "c/c": [{"tokens": [0.5] * 16}]})
        assert "row 0 as streamed, has 'abc' for tokens" in refusal(DataError, "hf:a/a", tmp_path)
        assert "row 0 as streamed, has 5 for text" in refusal(DataError, "hf:b/b", tmp_path, tokenizer)
        assert "token 0 is 0.5" in refusal(DataError, "hf:c/c", tmp_path)

    def test_rows_that_are_all_too_short(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_hub(monkeypatch, {"o/n": [{"tokens": [1] * 12}] * 1500})
        assert "up to 12 tokens, --seq-len is 16" in refusal(UsageError, "hf:o/n", tmp_path)

    def test_the_authors_mix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two rounds of 240 + 60, each in the order of their torch.randperm, whatever the sweep's seed."""
        rows = {
            "NeelNanda/c4-tokenized-2b": [{"tokens": [i] * 20} for i in range(1000)],
            "NeelNanda/code-tokenized": [{"tokens": [1000 + i] * 20} for i in range(125)],
        }
        fake_hub(monkeypatch, rows)  # type: ignore[arg-type]
        found = tokens_of("gelu-mix", tmp_path, prompts=600, d_vocab=2000)[:, 0]
        streams = [
            datasets.IterableDataset.from_generator(lambda repo=repo: iter(rows[repo])).shuffle(
                seed=5235, buffer_size=10
            )
            for repo in rows
        ]
        c4, code = ([row["tokens"][0] for row in stream] for stream in streams)
        torch.manual_seed(5235)
        order = torch.randperm(300)
        for r in (0, 1):
            expected = np.array(c4[240 * r : 240 * r + 240] + code[60 * r : 60 * r + 60])[order.numpy()]
            assert found[300 * r : 300 * r + 300].tolist() == expected.tolist()
        prefix = tokens_of("gelu-mix", tmp_path / "new", prompts=40, d_vocab=2000, seed=8)[:, 0]
        assert np.array_equal(prefix, found[:40])
        assert "has 600 prompts" in refusal(UsageError, "gelu-mix", tmp_path, prompts=601, d_vocab=2000)


@pytest.mark.parametrize(("seed", "n"), [(5235, 1), (5235, 2), (5235, 300), (0, 17)])
def test_torch_permutation(seed: int, n: int) -> None:
    torch.manual_seed(seed)
    assert torch_permutation(seed, n).tolist() == torch.randperm(n).tolist()
