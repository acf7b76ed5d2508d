"""What is asked of a model: a prompt, and next tokens whose logits are set against each other behind it.

People give prompts as texts or as token ids, answers as strings, ids or several a prompt. A string that is no single token is
refused with the tokens that it is made of: the logit of its first one is another question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.models.tokenizer import Tokenizer

TRIED_SPACE = " "
"""In front of a word in most tokenizers, and left out by most who name one."""
KEYS = ("prompt", "answer", "against", "corrupted", "pos")


class Question(NamedTuple):
    """One prompt up to the place at which it is measured."""

    tokens: tuple[int, ...]
    """The last one is the place."""
    answers: tuple[int, ...] = ()
    """Whose mean logit counts; empty where the model's most likely token is meant."""
    against: tuple[int, ...] = ()
    """Whose mean logit is taken from it; empty where the most likely token that is no answer is meant."""
    corrupted: tuple[int, ...] | None = None
    """The same prompt with something else said in it, token by token as long."""


class Reader:
    """Makes questions of what people give.

    Args:
        tokenizer: the model's; ``None`` where it came without one: prompts and answers are ids then.
        d_vocab: of the model.
        n_ctx: the longest prompt that it takes.
        bos: whether texts begin with the tokenizer's BOS, where it has one.
    """

    def __init__(self, tokenizer: Tokenizer | None, d_vocab: int, n_ctx: int, bos: bool = True) -> None:
        self._tokenizer, self._d_vocab, self._n_ctx, self._bos = tokenizer, d_vocab, n_ctx, bos

    def read(
        self,
        prompts: Any,
        answers: Any = None,
        against: Any = None,
        pos: int | Sequence[int] = -1,
        corrupted: Any = None,
    ) -> list[Question]:
        """Questions of a prompt, or of several.

        Args:
            prompts: a text, ids, several of either, or mappings with ``prompt`` and perhaps ``answer``, ``against``,
                ``corrupted`` and ``pos``.
            answers, against: of one prompt a string, an id or several; of several prompts a list of these.
            pos: index of the token behind which the model is asked, of each prompt or of all.
            corrupted: a prompt for each.

        Raises:
            UsageError: they do not fit each other, the model, or its tokenizer; says which, and what would.
        """
        given = _several(prompts)
        if not given:
            raise UsageError("there is no prompt: give a text, its token ids, or several")
        n = len(given)
        columns = {
            "answer": _each("answer_tokens", answers, n),
            "against": _each("incorrect_tokens", against, n),
            "corrupted": [None] * n if corrupted is None else _several(corrupted),
            "pos": [pos] * n if isinstance(pos, int) else [int(place) for place in _plain(pos)],
        }
        for name, values in columns.items():
            if len(values) != n:
                raise UsageError(f"there are {n} prompts and {len(values)} of {name}: give one for each")
        rows = ({name: values[row] for name, values in columns.items()} for row in range(n))
        return [self._question(row, prompt, rest) for row, (prompt, rest) in enumerate(zip(given, rows, strict=True))]

    def _question(self, row: int, prompt: Any, rest: dict[str, Any]) -> Question:
        where = f"prompt {row + 1}"
        if isinstance(prompt, Mapping):
            if unknown := [key for key in prompt if key not in KEYS]:
                raise UsageError(f"{where} has {unknown[0]!r}: its keys are {', '.join(KEYS)}")
            if "prompt" not in prompt:
                raise UsageError(f"{where} has no 'prompt'")
            rest = rest | {key: value for key, value in prompt.items() if key != "prompt" and value is not None}
            prompt = prompt["prompt"]
        tokens = self._tokens(where, prompt)
        place = rest["pos"] + len(tokens) if rest["pos"] < 0 else rest["pos"]
        if not 1 <= place < len(tokens):
            raise UsageError(
                f"{where} is asked at position {rest['pos']} of {len(tokens)} tokens: give one from 1 to "
                f"{len(tokens) - 1}, or from the end; position 0 sees no other token"
            )
        corrupted = None if rest["corrupted"] is None else self._tokens(f"corrupted {where}", rest["corrupted"])
        if corrupted is not None and len(corrupted) != len(tokens):
            raise UsageError(
                f"{where} has {len(tokens)} tokens and its corrupted prompt {len(corrupted)}: they must have as many"
            )
        answers = self._chosen(where, "answer", rest["answer"])
        against = self._chosen(where, "against", rest["against"])
        if both := set(answers) & set(against):
            raise UsageError(f"{where} has token {min(both)} as an answer and against it: its logit would cancel")
        return Question(
            tokens[: place + 1],
            answers,
            against,
            None if corrupted is None else corrupted[: place + 1],
        )

    def _tokens(self, where: str, prompt: Any) -> tuple[int, ...]:
        if isinstance(prompt, str):
            tokenizer = self._needed(where)
            start = [tokenizer.bos_id] if self._bos and tokenizer.bos_id is not None else []
            ids = [*start, *tokenizer.encode_batch([prompt])[0]]
            if len(ids) == len(start):
                raise UsageError(f"{where} is empty: give a text")
        else:
            ids = [self._id(where, value) for value in _plain(prompt)]
        if len(ids) < 2:
            raise UsageError(f"{where} has {len(ids)} tokens: it takes two, since the first sees no other")
        if len(ids) > self._n_ctx:
            raise UsageError(f"{where} has {len(ids)} tokens, and the model takes {self._n_ctx}")
        return tuple(ids)

    def _chosen(self, where: str, name: str, given: Any) -> tuple[int, ...]:
        """Ids of the answers of one prompt."""
        if given is None:
            return ()
        several = [given] if isinstance(given, str) or not _is_several(given) else _plain(given)
        return tuple(self._one_token(where, name, value) for value in several)

    def _one_token(self, where: str, name: str, given: Any) -> int:
        if not isinstance(given, str):
            return self._id(f"{name} of {where}", given)
        tokenizer = self._needed(f"{name} of {where}")
        ids, spaced = tokenizer.encode_batch([given, TRIED_SPACE + given])
        if len(ids) == 1:
            return self._id(f"{name} of {where}", ids[0])
        parts = ", ".join(repr(part) for part in tokenizer.token_strings(ids))
        meant = f"{TRIED_SPACE + given!r} is one token: was that meant?" if len(spaced) == 1 else "give one of them"
        raise UsageError(f"{name} {given!r} of {where} is {len(ids)} tokens ({parts}): {meant}")

    def _id(self, where: str, value: Any) -> int:
        if not _is_whole(value):
            raise UsageError(f"{where} holds {value!r}: give texts or token ids")
        token = index(value)
        if not 0 <= token < self._d_vocab:
            raise UsageError(f"{where} holds token {token}, and the model has tokens from 0 to {self._d_vocab - 1}")
        return token

    def _needed(self, where: str) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError(f"{where} is a text, and the model came without a tokenizer: give it, or token ids")
        return self._tokenizer


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, of numpy or torch as well."""
    try:
        index(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return not isinstance(value, bool)


def _plain(values: Any) -> list[Any]:
    """A list of what a tensor, an array or a sequence holds."""
    found = values.tolist() if hasattr(values, "tolist") else values
    return list(found) if _is_several(found) else [found]


def _is_several(values: Any) -> bool:
    return not isinstance(values, str | bytes | Mapping) and (
        isinstance(values, Sequence) or getattr(values, "ndim", 0) > 0
    )


def _is_lone(prompts: Any) -> bool:
    """Whether one prompt is given by itself, not as a list of one."""
    if not _is_several(prompts):
        return True
    ids = _plain(prompts)
    return bool(ids) and all(_is_whole(value) for value in ids)


def _several(prompts: Any) -> list[Any]:
    """Each prompt; of one that is given by itself a list."""
    return [prompts] if _is_lone(prompts) else _plain(prompts)


def _each(name: str, values: Any, n: int) -> list[Any]:
    """What belongs to each prompt: one prompt takes all."""
    if values is None:
        return [None] * n
    if n == 1:
        return [next(_unwrapped(values))]
    if not _is_several(values):
        raise UsageError(f"{name} is {values!r}, and there are {n} prompts: give a list with one, or several, for each")
    return _plain(values)


def _unwrapped(values: Any) -> Iterator[Any]:
    """Of one prompt: what is given for it, also where that is a list of one list."""
    plain = _plain(values) if _is_several(values) else values
    yield plain[0] if isinstance(plain, list) and len(plain) == 1 and _is_several(plain[0]) else plain
