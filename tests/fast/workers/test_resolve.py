"""Resolving for verify: which prompts it measures on, and what the user gave it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from erasure_sweep.workers.corpora.resolve_corpus import CorpusRequest, fingerprint_tokens, load_tokens
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.records import Group, Resolved, VerifyRequest
from erasure_sweep.workers.resolve import none_among, resolve, tokenize_given, verify_span
from tests.support.corpus_requests import write_tokenizer
from tests.support.models.random_models import write_tl_directory

SEQ_LEN = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resolve")
    write_tl_directory(folder / "model", n_layers=2, n_heads=2, d_model=16)
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, 97, (20, SEQ_LEN)))
    return folder


def resolved(place: Path, prompts: int = 10, verify: int | None = None, **more: object) -> Resolved:
    request = CorpusRequest(str(place / "tokens.npy"), prompts, SEQ_LEN, 0)
    wanted = None if verify is None else VerifyRequest(verify)
    return resolve(str(place / "model"), request, str(place / "staging"), verify=wanted, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scanned", "held", "wanted", "expected"),
    [
        (10, 42, 32, (10, 42)),
        (10, 14, 32, (10, 14)),
        (10, 12, 32, (10, 12)),
        (10, 11, 32, (0, 10)),
        (40, 40, 32, (0, 32)),
        (2, 2, 32, (0, 2)),
        (1, 3, 32, (1, 3)),
    ],
)
def test_prompts_behind_the_scan_or_else_scanned_ones(
    scanned: int, held: int, wanted: int, expected: tuple[int, int]
) -> None:
    assert verify_span(scanned, held, wanted) == expected


def test_held_out_is_told_by_what_prompts_hold() -> None:
    scanned = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert none_among(scanned + 1, scanned)
    assert not none_among(np.concatenate([scanned + 1, scanned[2:]]), scanned)


@pytest.mark.parametrize(("copies", "prompts", "expected"), [(20, 32, (6, (0, 6), False)), (20, 3, (3, (3, 6), True))])
def test_of_six_documents_twenty_times_six_are_measured(
    place: Path, tmp_path: Path, copies: int, prompts: int, expected: tuple[int, tuple[int, int], bool]
) -> None:
    """A prompt that was scanned is not taken for one that was held out, wherever its copies stand."""
    documents = np.random.default_rng(1).integers(0, 97, (6, SEQ_LEN))
    np.save(tmp_path / "tokens.npy", np.tile(documents, (copies, 1)))
    request = CorpusRequest(str(tmp_path / "tokens.npy"), prompts, SEQ_LEN, 0)
    found = resolve(str(place / "model"), request, str(tmp_path / "staging"), verify=VerifyRequest(32))
    assert (found.n_prompts, found.verify_prompts, found.held_out) == expected
    tokens = load_tokens(Path(found.tokens))
    assert len({prompt.tobytes() for prompt in tokens}) == len(tokens) == 6


def test_a_single_prompt_cannot_be_verified() -> None:
    with pytest.raises(UsageError, match=r"verify needs 2 distinct prompts .* holds 2: give more, or --stage scan"):
        verify_span(1, 2, 32)


def test_the_scan_is_the_same_whether_or_not_it_is_verified(place: Path) -> None:
    scan, both = resolved(place), resolved(place, verify=6)
    assert scan.corpus_fingerprint == both.corpus_fingerprint == fingerprint_tokens(load_tokens(Path(scan.tokens)))
    assert (scan.n_prompts, scan.verify_prompts, scan.verify_fingerprint) == (10, (0, 0), "")
    assert (both.n_prompts, both.verify_prompts, both.held_out, both.notes) == (10, (10, 16), True, ())
    tokens = load_tokens(Path(both.tokens))
    assert tokens.shape == (16, SEQ_LEN) and both.verify_fingerprint == fingerprint_tokens(tokens)
    assert (tokens[:10] == load_tokens(Path(scan.tokens))).all()


def test_scanned_prompts_are_taken_again_and_said_to_be(place: Path) -> None:
    again = resolved(place, prompts=20, verify=6)
    assert (again.verify_prompts, again.held_out) == ((0, 6), False)
    (note,) = again.notes
    assert note.startswith("model: the corpus holds no more than 20 prompts of 8 tokens") and "not held out" in note


def test_a_corpus_that_is_too_small_for_the_scan_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="has 20 prompts of 8 tokens, 21 were asked for"):
        resolved(place, prompts=21, verify=6)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"writers": ("L0H9",)}, "--writer L0H9: no such writer: did you mean"),
        ({"writers": ("L1H0",)}, "--writer L1H0: no later head can read it"),
        ({"writers": ("MLP1",)}, "--writer MLP1: no later head can read it"),
        ({"groups": (Group("L0H0", ("L0H1",)),)}, "--erasers L0H1: a head of layer 0 cannot read L0H0"),
        ({"groups": (Group("L0H0", ("MLP1",)),)}, "--erasers MLP1: no such head"),
    ],
)
def test_named_components_are_there(place: Path, named: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(place, **named)
    assert str(caught.value).startswith(said)


def given(*texts: str, first_position: bool = False) -> VerifyRequest:
    return VerifyRequest(2, texts, first_position)


class TestGivenPrompts:
    @pytest.fixture(scope="class")
    def tokenizer(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))

    def test_bos_goes_first(self, tokenizer: str) -> None:
        (one, two) = tokenize_given(given("ab", "a<|EOS|>"), tokenizer, 258, 16)
        assert one[0] == two[0] == 0 and len(one) == 3
        assert len(two) == 2 + len("<|EOS|>")  # what is spelled out is text
        assert tokenize_given(given(), None, 258, 16) == ()

    def test_one_that_is_too_long_is_named(self, tokenizer: str) -> None:
        with pytest.raises(UsageError, match=r"adversarial_prompts: 'abcdef' has 7 tokens with BOS, --seq-len is 6"):
            tokenize_given(given("a", "abcdef"), tokenizer, 258, 6)
        assert len(tokenize_given(given("abcde"), tokenizer, 258, 6)[0]) == 6

    def test_one_whose_only_position_is_left_out(self, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        without_bos = SimpleNamespace(bos_id=None, encode_batch=lambda texts: [[5] * len(text) for text in texts])
        monkeypatch.setattr("erasure_sweep.workers.resolve.load_fitting_tokenizer", lambda *_: without_bos)
        with pytest.raises(UsageError, match=r"adversarial_prompts: 'b' is a single token.*first_position: true"):
            tokenize_given(given("ab", "b"), tokenizer, 258, 6)
        assert len(tokenize_given(given("b", first_position=True), tokenizer, 258, 6)[0]) == 1

    def test_a_model_without_tokenizer_takes_none(self) -> None:
        with pytest.raises(UsageError, match=r"adversarial_prompts: 'ab' is text, and the model has no tokenizer"):
            tokenize_given(given("ab"), None, 258, 16)

    def test_another_models_tokenizer(self, tokenizer: str) -> None:
        with pytest.raises(DataError, match="it is another model's"):
            tokenize_given(given("ab"), tokenizer, 100, 16)
