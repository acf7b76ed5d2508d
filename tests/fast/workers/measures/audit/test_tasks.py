"""Sets of prompts that are made here."""

from __future__ import annotations

import pytest

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.measures.audit.questions import Reader
from erasure_sweep.workers.measures.audit.tasks import NAMES, TASKS, is_task, make_task
from tests.support.word_tokenizer import WordTokenizer


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer()


@pytest.mark.parametrize("task", TASKS)
def test_every_prompt_can_be_asked_and_has_a_twin_of_its_length(task: str, tokenizer: WordTokenizer) -> None:
    made = make_task(f"{task}:12", tokenizer)
    assert made is not None and len(made) == 12
    questions = Reader(tokenizer, 1000, 100).read(made)
    for question in questions:
        assert question.corrupted is not None and len(question.corrupted) == len(question.tokens)
        assert question.corrupted != question.tokens
        assert question.answers and question.against and not set(question.answers) & set(question.against)
    assert len({question.tokens for question in questions}) > 8
    assert make_task(f"{task}:3", WordTokenizer()) == make_task(f"{task}:12", WordTokenizer())[:3]  # type: ignore[index]


def test_ioi_asks_for_the_one_who_does_not_give(tokenizer: WordTokenizer) -> None:
    made = make_task("ioi:8", tokenizer)
    assert made is not None
    firsts = []
    for row in made:
        text, twin = tokenizer.decode(row["prompt"]), tokenizer.decode(row["corrupted"])
        answer, against = (tokenizer.token_strings([row[name]])[0] for name in ("answer", "against"))
        assert text.count(against) == 2 and text.count(answer) == 1
        assert twin.count(against) == 1 and twin.count(answer) == 2
        assert answer.strip() in NAMES
        firsts.append(text.index(answer) < text.index(against))
    assert firsts == [False, True] * 4


def test_greater_than_sets_later_years_against_the_others(tokenizer: WordTokenizer) -> None:
    made = make_task("greater-than:5", tokenizer)
    assert made is not None
    for row in made:
        words = tokenizer.token_strings(row["prompt"])
        year = int(words[words.index(" to") - 1])
        later = {int(word) for word in tokenizer.token_strings(row["answer"])}
        assert min(later) == year + 1 and max(later) == 99
        assert max(int(word) for word in tokenizer.token_strings(row["against"])) == year
        assert "01" in tokenizer.token_strings(row["corrupted"])


def test_docstring_asks_for_the_third_argument(tokenizer: WordTokenizer) -> None:
    made = make_task("docstring:5", tokenizer)
    assert made is not None
    for row in made:
        text, answer = tokenizer.decode(row["prompt"]), tokenizer.token_strings([row["answer"]])[0]
        assert text.count(answer) == 1 and answer not in tokenizer.decode(row["corrupted"])
        assert text.endswith(":param")


def test_induction_asks_for_what_followed(tokenizer: WordTokenizer) -> None:
    made = make_task("induction:9", tokenizer)
    assert made is not None
    for row in made:
        *before, last = row["prompt"]
        assert before[before.index(last) + 1] == row["answer"]
        assert last not in row["corrupted"][: len(before) // 2]


def test_what_is_no_task_is_a_prompt(tokenizer: WordTokenizer) -> None:
    for text in ("ioi", "ioi:", "ioi:x", "note:3", "at 12:30", "IOI:3"):
        assert not is_task(text)
        assert make_task(text, tokenizer) is None
    for n in (0, 20_000):
        with pytest.raises(UsageError, match="1 to 10,000 prompts"):
            make_task(f"ioi:{n}", tokenizer)


def test_a_tokenizer_without_names_is_told_what_works() -> None:
    with pytest.raises(UsageError, match="needs 4 of its words as single tokens, and this tokenizer has 0") as error:
        make_task("ioi:3", WordTokenizer(split=NAMES))
    assert "induction:N works" in str(error.value)
    with pytest.raises(UsageError, match="came without a tokenizer"):
        make_task("ioi:3", None)
