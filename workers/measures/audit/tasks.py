"""Sets of prompts for the field's usual tasks, made here: each with answers, what is against them, and a corrupted twin.

- ``ioi:N``: who is given something (Wang et al. 2022); half of the prompts name the receiver first; corrupted by swapping who
  gives, so that the other name is right.
- ``greater-than:N``: the end of a war that began in some year (Hanna et al. 2023); all later years of the century against the
  others; corrupted by the year 01.
- ``docstring:N``: the next argument in a docstring (Heimersheim and Janiak 2023); against it the other arguments of the
  function; corrupted by arguments that the docstring does not name.
- ``induction:N``: random tokens that begin again; corrupted where the place is that is to be found again.

Names and words are those that are one token of the model's tokenizer. The same set is made every time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.models.tokenizer import Tokenizer

Prompt = dict[str, Any]
"""As ``questions`` reads it: ``prompt``, ``answer``, ``against`` and ``corrupted``, all of them ids."""

_NAMED = re.compile(r"(?P<task>[a-z-]+):(?P<n>\d+)")
MOST = 10_000


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""
    Mary John Anna Peter Sarah Tom Alice Paul Emma James Laura David Julia Mark Helen Simon Kate Daniel Lisa Robert Jane
    Michael Susan Andrew Maria Kevin Rachel Steven Amy Brian Linda Jason Nancy Eric Karen Adam Betty Scott Diana Frank
""")
PLACES = _words("store park school office station garden museum hospital restaurant library")
OBJECTS = _words("drink book letter ring ball key bag camera map flower")
FRAMES = (
    "When {a} and {b} went to the {place}, {s} gave a {thing} to",
    "Then {a} and {b} came to the {place}, and {s} handed a {thing} to",
    "After {a} and {b} had met at the {place}, {s} brought a {thing} to",
    "While {a} and {b} were sitting in the {place}, {s} passed a {thing} to",
)
NOUNS = _words("war siege strike drought voyage trial project campaign")
ARGUMENTS = _words("""
    file name value key size index data text mode path order user start end line field date count option limit source target
    state node label group table result error message
""")
WORDS = _words("the new old first last main whole next other given")
VERBS = _words("load save check read write find send move close open")


def is_task(spec: str) -> bool:
    """Whether this names a task."""
    match = _NAMED.fullmatch(spec)
    return match is not None and match["task"] in TASKS


def make_task(spec: str, tokenizer: Tokenizer | None) -> list[Prompt] | None:
    """The prompts of a task; ``None`` where ``spec`` names none.

    Args:
        spec: such as ``ioi:20``.

    Raises:
        UsageError: there is no tokenizer, or it has too few of the words as single tokens.
    """
    match = _NAMED.fullmatch(spec)
    if match is None or not is_task(spec):
        return None
    n = int(match["n"])
    if not 1 <= n <= MOST:
        raise UsageError(f"{spec}: a set has 1 to {MOST:,} prompts")
    if tokenizer is None:
        raise UsageError(f"{spec} is made of words, and the model came without a tokenizer: give it")
    words = _Words(tokenizer, spec)
    made = TASKS[match["task"]](words, random.Random(0))
    return [next(made) for _ in range(n)]


class _Words:
    """A tokenizer that gives single tokens."""

    def __init__(self, tokenizer: Tokenizer, spec: str) -> None:
        self.tokenizer, self.spec = tokenizer, spec

    def ids(self, text: str) -> list[int]:
        """A prompt's ids, its BOS in front."""
        start = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return [*start, *self.tokenizer.encode_batch([text])[0]]

    def single(self, words: Sequence[str], least: int, space: str = " ") -> dict[str, int]:
        """Those words that are one token, and their ids."""
        encoded = self.tokenizer.encode_batch([space + word for word in words])
        found = {word: ids[0] for word, ids in zip(words, encoded, strict=True) if len(ids) == 1}
        if len(found) < least:
            raise UsageError(
                f"{self.spec} needs {least} of its words as single tokens, and this tokenizer has {len(found)} (of "
                f"{', '.join(words[:4])}, …): induction:N works with any tokenizer"
            )
        return found

    def twin(self, text: str, other: str) -> tuple[list[int], list[int]]:
        """A prompt and its corrupted twin, of the same length.

        Raises:
            UsageError: they have not.
        """
        ids, twin = self.ids(text), self.ids(other)
        if len(ids) != len(twin):
            raise UsageError(f"{self.spec}: this tokenizer gives {text!r} and {other!r} different lengths")
        return ids, twin


def _ioi(words: _Words, draw: random.Random) -> Iterator[Prompt]:
    names = words.single(NAMES, 4)
    at = 0
    while True:
        io, s = draw.sample([*names], 2)
        a, b = (io, s) if at % 2 else (s, io)
        rest = {"a": a, "b": b, "place": draw.choice(PLACES), "thing": draw.choice(OBJECTS)}
        frame = FRAMES[at // 2 % len(FRAMES)]
        ids, twin = words.twin(frame.format(s=s, **rest), frame.format(s=io, **rest))
        yield {"prompt": ids, "corrupted": twin, "answer": names[io], "against": names[s]}
        at += 1


def _greater_than(words: _Words, draw: random.Random) -> Iterator[Prompt]:
    years = words.single([f"{year:02}" for year in range(1, 100)], 60, space="")
    while True:
        century, start = draw.choice((15, 16, 17, 18)), draw.choice([year for year in years if 2 < int(year) < 98])
        frame = f"The {draw.choice(NOUNS)} lasted from the year {century}{{}} to the year {century}"
        ids, twin = words.twin(frame.format(start), frame.format("01"))
        if ids.count(years[start]) != 1:
            raise UsageError(f"{words.spec}: this tokenizer does not split {century}{start} into {century} and {start}")
        later = [token for year, token in years.items() if int(year) > int(start)]
        earlier = [token for year, token in years.items() if int(year) <= int(start)]
        yield {"prompt": ids, "corrupted": twin, "answer": later, "against": earlier}


def _docstring(words: _Words, draw: random.Random) -> Iterator[Prompt]:
    arguments = words.single(ARGUMENTS, 12)
    while True:
        *others, a, b, c, d = draw.sample([*arguments], 8)
        verb, first, second = draw.choice(VERBS), *draw.sample(WORDS, 2)
        behind = (
            f'):\n    """{verb} it\n\n    :param {a}: {first} {second}\n    :param {b}: {second} {first}\n    :param'
        )
        made = [f"def {verb}(self, {', '.join(names)}{behind}" for names in ((others[0], a, b, c, d), (*others, d))]
        ids, twin = words.twin(*made)
        wrong = [arguments[name] for name in (others[0], a, b, d)]
        yield {"prompt": ids, "corrupted": twin, "answer": arguments[c], "against": wrong}


def _induction(words: _Words, draw: random.Random) -> Iterator[Prompt]:
    start = [] if words.tokenizer.bos_id is None else [words.tokenizer.bos_id]
    n_ids = words.tokenizer.n_ids
    while True:
        *once, stranger = draw.sample([token for token in range(n_ids) if token not in start], 13)
        cut = draw.randrange(4, 10)
        again = once[: cut + 1]
        twin = [*once[:cut], stranger, *once[cut + 1 :]]
        wrong = draw.choice([token for token in once if token != once[cut + 1]])
        yield {
            "prompt": [*start, *once, *again],
            "corrupted": [*start, *twin, *again],
            "answer": once[cut + 1],
            "against": wrong,
        }


TASKS: Mapping[str, Callable[[_Words, random.Random], Iterator[Prompt]]] = {
    "ioi": _ioi,
    "greater-than": _greater_than,
    "docstring": _docstring,
    "induction": _induction,
}
