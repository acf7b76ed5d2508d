"""Tokenizers: what tokens are called, and models without a beginning-of-sequence token"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import Regex, SentencePieceBPETokenizer, Tokenizer, pre_tokenizers

from erasure_sweep.dashboards.comparison.overview import texts_line
from erasure_sweep.workers.manifest import Manifest
from tests.support.bad_input import D_VOCAB, Bench, Ran, assert_finished, assert_refused, measured_words
from tests.support.fakes.tables import model_tables
from tests.support.models.random_models import write_tl_directory

LINES = [f"the cat {word} on mat {number}\n" for number in range(40) for word in ("sat", "ran", "lay")]
VERIFIED = {"writer": "L0H0", "erasers": "L1H0", "prompts": 4}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(LINES))
    return tmp_path / "text.txt"


def model_with_tokenizer(bench: Bench, folder: Path, *specials: str) -> Path:
    """The bench's model, with a SentencePiece tokenizer of these special tokens."""
    shutil.copytree(bench.model, folder)
    tokenizer = SentencePieceBPETokenizer()
    tokenizer.train_from_iterator(LINES, vocab_size=D_VOCAB, special_tokens=["<unk>", *specials], show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tokens_shown(ran: Ran) -> list[str | None]:
    """Of the places that were found, prompt by prompt, what each token is called."""
    (path,) = ran.out.rglob("adversarial_tokens.parquet")
    return list(pd.read_parquet(path)["token"])


def test_a_sentencepiece_tokenizer(bench: Bench, out: Path, tmp_path: Path, text: Path):
    """A tokenizer of SentencePiece (Llama, Gemma, T5)

    Tokens are shown with the spaces that they spell: together they are the text.
    """
    model = model_with_tokenizer(bench, tmp_path / "spaced", "<s>")
    ran = bench.run(out, model=model, corpus=text, **VERIFIED)
    assert_finished(ran, "spaced")
    shown = tokens_shown(ran)
    assert shown[0] == "<s>" and " cat" in shown
    assert all(shown) and "the cat " in "".join(map(str, shown))


def test_ready_tokens_and_a_tokenizer_without_bos(bench: Bench, out: Path, tmp_path: Path):
    """Ready tokens, and a tokenizer that has no beginning-of-sequence token

    Tokens are called what the tokenizer calls them, and nobody is advised to give what was given.
    """
    model = model_with_tokenizer(bench, tmp_path / "named")
    ran = bench.run(out, model=model, **VERIFIED)
    assert_finished(ran, "named")
    (path,) = ran.out.rglob("adversarial_tokens.parquet")
    rows, known = pd.read_parquet(path), Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab_size()
    assert all(rows["token"][rows["token_id"] < known])  # drawn tokens can be beyond those that it has
    assert "ready tokens" not in ran.stdout + ran.stderr and "shown as ids" not in ran.stdout


def test_text_without_bos(bench: Bench, out: Path, tmp_path: Path, text: Path):
    """Text for a model that has no beginning-of-sequence token

    Measured without one, which the manifest and the page say.
    """
    model = model_with_tokenizer(bench, tmp_path / "bare")
    ran = bench.run(out, model=model, corpus=text, **VERIFIED)
    assert_finished(ran, "bare")
    assert "each prompt is a passage without BOS, which the tokenizer does not have" in measured_words(out)
    backend = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert backend.token_to_id("<s>") is None and all(tokens_shown(ran))


def test_a_pattern_that_runs_away(bench: Bench, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """A tokenizer whose pattern runs away on a text

    Refused in one line; the panic of the library, a page for every thread, does not reach the terminal.
    """
    model = model_with_tokenizer(bench, tmp_path / "wild", "<s>")
    backend = Tokenizer.from_file(str(model / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?:(?:a+)+)+$|(a|aa)+$"), "isolated")
    backend.save(str(model / "tokenizer.json"))
    (tmp_path / "rows.txt").write_text("".join(f"{'a' * 60}! {i}\n" for i in range(200)))
    refused = bench.run(out, model=model, corpus=tmp_path / "rows.txt", **VERIFIED)
    assert_refused(refused, 1, "tokenizer.json fails on a text of the corpus", "ready tokens")
    assert "panicked" not in capfd.readouterr().err


def test_models_on_one_array_of_tokens(bench: Bench, out: Path, tmp_path: Path):
    """Several models on ready tokens

    The comparison says that they read the same tokens, and speaks of no tokenizers.
    """
    other = write_tl_directory(tmp_path / "other", 1, 2, 2, 16)
    ran = bench.run(out, "--model", str(other), stage="scan", prompts=4)
    assert ran.code == 0, ran.stderr
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    models = [model_tables(entry.to_json(), {}) for entry in manifest.models]
    assert texts_line(models, manifest) == f"All models read the same ready tokens, {bench.tokens}."
