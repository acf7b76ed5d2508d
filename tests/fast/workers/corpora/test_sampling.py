"""How prompts are packed from passages: against the rule spelled out, and the same text for every tokenizer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erasure_sweep.workers.corpora.sampling import CorpusRequest, Document, draw_text, pack_prompts
from erasure_sweep.workers.errors import UsageError

BOS, SEPARATOR = -1, -2
Encode = Callable[[str], list[int]]


class Spelling:
    """A tokenizer that is a function from text to ids."""

    bos_id, separator_id, n_ids, fingerprint = BOS, SEPARATOR, 0, "spelling"

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self._encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        raise NotImplementedError


def by_bytes(text: str) -> list[int]:
    return list(text.encode())


def by_words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def by_pairs(text: str) -> list[int]:
    return [sum(text[i : i + 2].encode()) for i in range(0, len(text), 2)]


def without_b(text: str) -> list[int]:
    """Finds no token in what consists of b and white space."""
    return [ord(letter) for letter in text if letter not in "b \n"]


ENCODINGS = [by_bytes, by_words, by_pairs, without_b]
checked = settings(max_examples=60, deadline=None, derandomize=True)
passages_of_text = st.lists(st.text("ab é\n", max_size=12), max_size=90)


def pack(passages: list[str], encode: Encode, seq_len: int, prompts: int | None = None) -> list[list[int]]:
    packed = pack_prompts(passages.__getitem__, len(passages), Spelling(encode), seq_len)
    return [prompt.ids.tolist() for prompt in islice(packed, prompts)]


def pack_literally(passages: list[str], encode: Encode, seq_len: int) -> list[list[int]]:
    """The rule: a passage from the front begins a prompt, passages from the back fill it up, white space is none."""
    left = deque(passage for passage in passages if passage.strip())
    prompts = []
    while left:
        prompt = [BOS, *encode(left.popleft())]
        while len(prompt) < seq_len and left:
            more = encode(left.pop())
            prompt += more if prompt == [BOS] or not more else [SEPARATOR, *more]
        if len(prompt) >= seq_len:
            prompts.append(prompt[:seq_len])
    return prompts


@pytest.mark.parametrize("encode", ENCODINGS)
@checked
@given(passages=passages_of_text, seq_len=st.integers(2, 40))
def test_the_rule(encode: Encode, passages: list[str], seq_len: int) -> None:
    assert pack(passages, encode, seq_len) == pack_literally(passages, encode, seq_len)


@pytest.mark.parametrize("encode", ENCODINGS)
@checked
@given(passages=passages_of_text, seq_len=st.integers(2, 20), prompts=st.integers(0, 90))
def test_first_prompts_of_a_longer_run_are_the_same(
    encode: Encode, passages: list[str], seq_len: int, prompts: int
) -> None:
    assert pack(passages, encode, seq_len, prompts) == pack(passages, encode, seq_len)[:prompts]


@pytest.mark.parametrize("other", [by_words, by_pairs, without_b])
@checked
@given(passages=passages_of_text, seq_len=st.integers(2, 20))
def test_prompt_i_begins_with_the_same_passage_for_every_tokenizer(
    other: Encode, passages: list[str], seq_len: int
) -> None:
    written = [passage for passage in passages if passage.strip()]
    for encode in (by_bytes, other):
        for passage, prompt in zip(written, pack(passages, encode, seq_len), strict=False):
            begins = encode(passage)[: seq_len - 1]
            assert prompt[1 : 1 + len(begins)] == begins


@checked
@given(sizes=st.lists(st.integers(1, 12), max_size=90), seq_len=st.integers(2, 40))
def test_each_passage_is_used_once_and_separated(sizes: list[int], seq_len: int) -> None:
    """Passages of one letter each, which says which it is."""
    letters = [chr(0x4E00 + i) for i in range(len(sizes))]
    packed = pack(
        [letter * size for letter, size in zip(letters, sizes, strict=True)], lambda text: [*map(ord, text)], seq_len
    )
    seen: set[int] = set()
    for number, prompt in enumerate(packed):
        assert (len(prompt), prompt[:2]) == (seq_len, [BOS, ord(letters[number])])
        parts = [part for part in "".join(map(chr, (max(i, 0) for i in prompt[1:]))).split("\0") if part]
        assert all(len(set(part)) == 1 for part in parts)
        used = {ord(part[0]) for part in parts}
        assert len(used) == len(parts)
        assert not used & seen
        seen |= used


class TestWhereFrontAndBackMeet:
    """Passages of three letters, of which ``seq_len`` decides how many a prompt takes: n of them are 4 n - 1 ids."""

    @pytest.fixture
    def passages(self) -> list[str]:
        return [letter * 3 for letter in "abcdefg"]

    @pytest.mark.parametrize(("seq_len", "prompts"), [(2, 7), (4, 7), (5, 3), (6, 3), (8, 3), (9, 2), (12, 2), (28, 1)])
    def test_so_many_prompts_come_out(self, passages: list[str], seq_len: int, prompts: int) -> None:
        assert len(pack(passages, by_bytes, seq_len)) == prompts

    def test_none_where_all_do_not_fill_one(self, passages: list[str]) -> None:
        assert pack(passages, by_bytes, 29) == []

    def test_what_is_in_them(self, passages: list[str]) -> None:
        shown = ["".join("|" if i < 0 else chr(i) for i in prompt) for prompt in pack(passages, by_bytes, 8)]
        assert shown == ["|aaa|ggg", "|bbb|fff", "|ccc|eee"]


def test_white_space_is_no_passage_and_no_token_is_no_text() -> None:
    passages = ["\n\n", "ab", "bb", "", "cb", " ", "db", "\t "]
    assert pack(passages, by_bytes, 3) == [[BOS, *text.encode()] for text in ("ab", "bb", "cb", "db")]
    of_back = [[BOS, ord(first)] for first in ("a", "d", "c")]
    assert pack(passages, without_b, 2) == of_back, "the passage bb, the second, leaves its prompt to the back"


def test_passages_follow_the_length_of_prompts() -> None:
    """Shorter prompts are others, not the longer ones' beginnings: passages are as long as prompts need."""
    content = "".join(f"line {i}\n" for i in range(2000)).encode()
    document = Document("d", len(content), lambda start, stop: content[start:stop])
    short, long = (
        draw_text([document], CorpusRequest("c", 20, seq_len, 0), Spelling(by_bytes)) for seq_len in (30, 60)
    )
    assert "passages of about 150 bytes" in short.description
    assert "passages of about 300 bytes" in long.description
    assert [*map(list, short.prompts)] != [list(ids[:30]) for ids in long.prompts]


def test_only_what_is_used_is_read() -> None:
    """From the front in batches, and nothing from the back where every passage fills its prompt."""
    read: list[int] = []

    def passage(place: int) -> str:
        read.append(place)
        return "abcd"

    assert len(list(islice(pack_prompts(passage, 1000, Spelling(by_bytes), 5), 40))) == 40
    assert read == list(range(64))


@pytest.mark.parametrize("lines", [1, 4])
def test_what_repeats_is_passed_over_and_counted(lines: int) -> None:
    """Six texts, twenty of each in documents of their own, that fill a prompt or a part of one."""
    contents = [f"text {i % 6} of six\n".encode() * lines for i in range(120)]
    documents = [Document(str(i), 15 * lines, lambda a, b, c=c: c[a:b]) for i, c in enumerate(contents)]
    drawn = draw_text(documents, CorpusRequest("c", 32, 40, 0), Spelling(by_bytes))
    texts = {tuple(ids.tolist()) for ids in drawn.prompts}
    assert len(texts) == len(drawn.prompts) == (6 if lines == 4 else 3)
    assert drawn.n_repeats == (120 if lines == 4 else 40) - len(texts)
    assert drawn.description.endswith(f"; {drawn.n_repeats} that repeat others were left out")
    with pytest.raises(UsageError, match=rf"has {len(texts)} distinct prompts of 40 tokens, 121 were asked for"):
        draw_text(documents, CorpusRequest("c", 121, 40, 0), Spelling(by_bytes))
