"""What people give as prompts and answers, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.measures.audit.questions import Question, Reader
from tests.support.word_tokenizer import WordTokenizer

TEXT = "When Mary and John went"
MARY, JOHN = " Mary", " John"


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer(split=["Frankenstein"])


@pytest.fixture
def reader(tokenizer: WordTokenizer) -> Reader:
    return Reader(tokenizer, d_vocab=500, n_ctx=12)


def ids(tokenizer: WordTokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode_batch([text])[0])


def test_a_text_begins_with_bos(reader: Reader, tokenizer: WordTokenizer) -> None:
    (found,) = reader.read(TEXT, MARY, JOHN)
    assert found == Question((0, *ids(tokenizer, TEXT)), ids(tokenizer, MARY), ids(tokenizer, JOHN))
    (without,) = Reader(tokenizer, 500, 12, bos=False).read(TEXT)
    assert without == Question(ids(tokenizer, TEXT))


@pytest.mark.parametrize(
    "prompts",
    [[3, 4, 5], (3, 4, 5), [[3, 4, 5]], torch.tensor([3, 4, 5]), torch.tensor([[3, 4, 5]]), np.array([3, 4, 5])],
)
def test_ids_are_taken_as_they_are(reader: Reader, prompts: Any) -> None:
    assert reader.read(prompts) == [Question((3, 4, 5))]


def test_several_prompts_of_different_lengths(reader: Reader) -> None:
    found = reader.read(
        [TEXT, [3, 4], {"prompt": [5, 6, 7], "answer": 8}], [1, [2, 3], 4], [[5], 6, None], pos=[-2, 1, -1]
    )
    assert [len(one.tokens) for one in found] == [5, 2, 3]
    assert [one.answers for one in found] == [(1,), (2, 3), (8,)]
    assert [one.against for one in found] == [(5,), (6,), ()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ()),
        (7, (7,)),
        ([7, 8], (7, 8)),
        ([[7, 8]], (7, 8)),
        (torch.tensor([7, 8]), (7, 8)),
        (torch.tensor(7), (7,)),
    ],
)
def test_answers_of_one_prompt(reader: Reader, given: Any, expected: tuple[int, ...]) -> None:
    assert reader.read(TEXT, given)[0].answers == expected


def test_a_row_of_a_set_with_everything(reader: Reader, tokenizer: WordTokenizer) -> None:
    row = {"prompt": TEXT, "answer": [MARY, 9], "against": JOHN, "corrupted": "When John and Mary went", "pos": 3}
    (found,) = reader.read([row])
    assert found.tokens == (0, *ids(tokenizer, TEXT))[:4]
    assert found.answers == (*ids(tokenizer, MARY), 9)
    assert found.corrupted == (0, *ids(tokenizer, "When John and Mary went"))[:4]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": ""}, "prompt 1 is empty: give a text"),
        ({"prompts": [3]}, "prompt 1 has 1 tokens"),
        ({"prompts": TEXT, "pos": 0}, "position 0 of 6 tokens: give one from 1 to 5"),
        ({"prompts": TEXT, "pos": 6}, "position 6 of 6 tokens"),
        ({"prompts": TEXT, "pos": -6}, "position -6 of 6 tokens"),
        ({"prompts": [TEXT, TEXT], "pos": [1]}, "there are 2 prompts and 1 of pos"),
        ({"prompts": [TEXT, TEXT], "answers": MARY}, "there are 2 prompts: give a list"),
        ({"prompts": [TEXT, TEXT], "answers": [MARY]}, "there are 2 prompts and 1 of answer"),
        ({"prompts": TEXT, "answers": " Frankenstein"}, "is 2 tokens (' Frank', 'enstein'): give one of them"),
        ({"prompts": TEXT, "answers": [7, 8], "against": 8}, "has token 8 as an answer and against it"),
        ({"prompts": TEXT, "answers": 500}, "token 500, and the model has tokens from 0 to 499"),
        ({"prompts": TEXT, "answers": 0.5}, "answer of prompt 1 holds 0.5"),
        ({"prompts": [[1, "a"]]}, "prompt 1 holds 'a'"),
        ({"prompts": [{"text": TEXT}]}, "prompt 1 has 'text': its keys are prompt"),
        ({"prompts": [{"answer": 3}]}, "prompt 1 has no 'prompt'"),
        ({"prompts": [3] * 13}, "prompt 1 has 13 tokens, and the model takes 12"),
        ({"prompts": TEXT, "corrupted": "When John went"}, "prompt 1 has 6 tokens and its corrupted prompt 4"),
    ],
)
def test_what_does_not_fit_is_refused(reader: Reader, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        reader.read(**asked)
    assert said in str(error.value)


def test_a_word_without_its_space_is_asked_about() -> None:
    class Pieces(WordTokenizer):
        def _parts(self, piece: str) -> list[str]:
            return [piece] if piece.startswith(" ") else list(piece)

    with pytest.raises(
        UsageError, match=r"'Mary' of prompt 1 is 4 tokens \('M', 'a', 'r', 'y'\): ' Mary' is one token"
    ):
        Reader(Pieces(), 500, 50).read([3, 4, 5], "Mary")


def test_texts_need_a_tokenizer() -> None:
    reader = Reader(None, 500, 12)
    assert reader.read([3, 4], 7) == [Question((3, 4), (7,))]
    for asked in ((TEXT,), ([3, 4], MARY)):
        with pytest.raises(UsageError, match="came without a tokenizer"):
            reader.read(*asked)
