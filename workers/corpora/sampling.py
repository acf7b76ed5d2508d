"""From documents, or rows of ready tokens, to the prompts of a sweep: which, in which order, and how they are cut.

A document is divided into slots of ``BYTES_PER_TOKEN * seq_len`` bytes; its passage number k runs from the first line
end in slot k to the first in slot k + 1 (a space or any character stands in where a slot holds no line end). So
passages follow from the sizes of the files alone, every byte lies in exactly one of them, and nothing has to be read
but what is used. Passages are put into the order of a hash of (seed, document name, k), which depends neither on the
file system nor on how many prompts are asked for; those of nothing but white space are left out and not counted. Every
passage has the same chance to come early, so text is drawn in proportion to its length. It is close to a uniform sample
of the text: what remains is that the end of a passage, left over when its prompt is full, is drawn less often, and so
the beginning of a document, where its first passage begins, a little more often.

Prompt i is BOS, where the model has one, and the tokens of passage i. Where that ends too early, a separator and a passage
from the end of the order follow, taken backwards and each once; what a passage has left over when its prompt is full is
dropped. Prompts end where front and back meet. So prompt i begins with the same text whatever the tokenizer: one that spells
with fewer tokens takes more from the back, and only has fewer prompts in the end. (A passage in which a tokenizer finds no
token at all leaves its prompt to those from the back.) And the first N prompts of a longer run are the same.

Where prompts are not packed, each is BOS and the beginning of a document, as far as ``seq_len`` tokens go: prompts are then of
different lengths.

No text counts twice, for statistics take prompts as independent, and verify's as unseen: a prompt whose tokens came before,
of text or of ready tokens, is passed over, and so is one of which more than half comes from passages whose text stands in
prompts before it. The others are what they would be if none were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64, Integer, UInt64

from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.fingerprint import digest
from erasure_sweep.workers.manifest import READY_TOKENS
from erasure_sweep.workers.models.tokenizer import Tokenizer
from erasure_sweep.workers.positions import as_u64, mix_u64

BYTES_PER_TOKEN = 5
"""Length of a passage beside that of a prompt: above what a token spells, so that most prompts need one passage."""
MOST_BYTES_PER_TOKEN = 64
"""So much of a document is read for each token of a prompt that is its beginning: far more than tokens spell."""
_PASSAGES_PER_BATCH = 32
_INSIDE = bytes(range(0x80, 0xC0))
"""Bytes with which no character begins."""


class CorpusRequest(NamedTuple):
    """What a sweep wants to read."""

    corpus: str
    """``stdlib``, a .npy, text, JSONL or parquet file, a folder, a known name, or ``hf:REPO[:CONFIG][:SPLIT]``;
    not ``own``."""
    prompts: int
    """How many prompts are taken, where the corpus holds as many."""
    seq_len: int
    seed: int
    least: int | None = None
    """How few are enough; ``None`` where all of them are needed."""
    pack: bool = True
    """Whether every prompt has ``seq_len`` tokens; else each document, or row of tokens, is one, of at most so many."""
    pad_id: int | None = None
    """Which id at the end of ready tokens is padding."""

    @property
    def needed(self) -> int:
        """How few prompts are enough."""
        return self.prompts if self.least is None else self.least

    @property
    def sizes(self) -> str:
        """How long prompts are, in words."""
        return f"{'' if self.pack else 'up to '}{self.seq_len} tokens"


class Document(NamedTuple):
    """One text of a corpus; only the parts that are drawn are read."""

    name: str
    n_bytes: int
    read: Callable[[int, int], bytes]
    """UTF-8 bytes from … to, fewer at the end."""
    lenient: bool = False
    """Whether bytes that are not UTF-8 are replaced rather than refused."""


class TokenRow(NamedTuple):
    """One row of ready tokens."""

    name: str
    n_ids: int
    read: Callable[[], Sequence[object]]


class Prompt(NamedTuple):
    """One prompt as it was made."""

    ids: Integer[np.ndarray, " pos"]
    passages: Sequence[tuple[bytes, int]] = ()
    """Of each passage of text in it a hash, and how many of its ids are in the prompt."""


class DrawnPrompts(NamedTuple):
    """Prompts drawn from a corpus, before they are checked against the vocabulary."""

    prompts: Sequence[Integer[np.ndarray, " pos"]]
    """The ids of each, no two alike."""
    description: str
    n_repeats: int = 0
    """How many were passed over because they repeat others."""


class Passages(NamedTuple):
    """Passages in the order in which they are drawn."""

    document: Int64[np.ndarray, " passage"]
    slot: Int64[np.ndarray, " passage"]


def draw_text(documents: Sequence[Document], request: CorpusRequest, tokenizer: Tokenizer) -> DrawnPrompts:
    """Prompts of the text of ``documents``: packed from their passages, or each document one.

    Raises:
        UsageError: the documents hold fewer prompts than asked for, or padding is named, which text has none of.
        DataError: what is drawn is not text, or a document alone makes a prompt of one token.
    """
    if request.pad_id is not None:
        raise UsageError(
            f"--pad-id {request.pad_id} is of ready tokens, and corpus {request.corpus} is text: leave it out"
        )
    return (_draw_packed if request.pack else _draw_whole)(documents, request, tokenizer)


def _draw_packed(documents: Sequence[Document], request: CorpusRequest, tokenizer: Tokenizer) -> DrawnPrompts:
    width = BYTES_PER_TOKEN * request.seq_len
    order = order_passages(documents, width, request.seed)

    def read(place: int) -> str:
        return read_passage(documents[order.document[place]], int(order.slot[place]), width)

    packed = pack_prompts(read, len(order.slot), tokenizer, request.seq_len)
    size = sum(document.n_bytes for document in documents)
    return take_distinct(
        packed,
        request,
        f"{len(documents)} documents, {size:,} bytes, cut into {len(order.slot)} passages of about {width} bytes;"
        f" each prompt is {_begin(tokenizer)}, in the order of seed {request.seed}, filled up from the end of that order",
    )


def _draw_whole(documents: Sequence[Document], request: CorpusRequest, tokenizer: Tokenizer) -> DrawnPrompts:
    ordered = _in_order(documents, request.seed)
    return take_distinct(
        _whole_documents(ordered, tokenizer, request.seq_len),
        request,
        f"{len(documents)} documents; each prompt is {_begin(tokenizer, 'the beginning of a document')}, of at most"
        f" {request.seq_len} tokens, in the order of seed {request.seed}",
    )


def _whole_documents(documents: Iterable[Document], tokenizer: Tokenizer, seq_len: int) -> Iterator[Prompt]:
    """BOS, where there is one, and the first tokens of each document; those of nothing but white space are left out."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    texts = ((document, _beginning(document, MOST_BYTES_PER_TOKEN * seq_len)) for document in documents)
    written = ((document, text) for document, text in texts if text.strip())
    while batch := list(islice(written, _PASSAGES_PER_BATCH)):
        encoded = tokenizer.encode_batch([text for _, text in batch])
        for (document, _), ids in zip(batch, encoded, strict=True):
            yield Prompt(_long_enough(np.array([*start, *ids][:seq_len], dtype=np.int64), document.name))


def _beginning(document: Document, n_bytes: int) -> str:
    """So many bytes of a document, or all; where it is cut, without the last character, which may be cut as well."""
    data = document.read(0, n_bytes)
    return _decode(data if n_bytes >= document.n_bytes else data.rstrip(_INSIDE)[:-1], 0, document)


def _long_enough(ids: Int64[np.ndarray, " pos"], where: str) -> Int64[np.ndarray, " pos"]:
    """Refuse what is too short to be a prompt.

    Raises:
        DataError: it has one token or none; ``where`` is named.
    """
    if len(ids) < 2:
        raise DataError(
            f"{where} has {'one token' if len(ids) else 'no token'}, and a prompt needs two: at the first, which attends to "
            "itself alone, nothing is predicted from a text: leave it out"
        )
    return ids


ItemT = TypeVar("ItemT", Document, TokenRow)


def _in_order(items: Sequence[ItemT], seed: int) -> Iterator[ItemT]:
    """Documents or rows in the order of a hash of (seed, name)."""
    keys = np.array([name_key(seed, item.name) for item in items], dtype=np.uint64)
    return (items[i] for i in np.argsort(keys, kind="stable"))


def _begin(tokenizer: Tokenizer, text: str = "a passage") -> str:
    """What prompts begin with, in words."""
    if tokenizer.bos_id is not None:
        return f"BOS and {text}"
    return f"{text} without BOS, which the tokenizer does not have"


def draw_rows(rows: Sequence[TokenRow], request: CorpusRequest) -> DrawnPrompts:
    """The first ``seq_len`` ids of rows, in the order of a hash of (seed, row name); of those alone that have as many, where
    prompts are of one length.

    Raises:
        UsageError: too few rows are long enough.
        DataError: a row is no prompt.
    """
    long_enough = [row for row in rows if row.n_ids >= request.seq_len or not request.pack]
    enough = f", {len(long_enough)} long enough" if request.pack else f", cut to {request.sizes}"
    found = (cut_row(row.read(), request, row.name) for row in _in_order(long_enough, request.seed))
    return take_distinct(
        (Prompt(ids) for ids in found if ids is not None),
        request,
        f"{len(rows)} rows of {READY_TOKENS}{enough}, in the order of seed {request.seed}",
    )


def cut_row(values: Sequence[object], request: CorpusRequest, where: str) -> Int64[np.ndarray, " pos"] | None:
    """A row of ready tokens as a prompt; ``None`` where prompts are of one length and it is shorter.

    Raises:
        DataError: a value is no integer, the row begins with padding, or it has one token or none; ``where`` is named.
    """
    # where padding begins is known at the end alone
    ids = as_ids(values if request.pad_id is not None else values[: request.seq_len], where)
    ids = _without_padding(ids, request.pad_id, where)[: request.seq_len]
    if not request.pack:
        return _long_enough(ids, where)
    return ids if len(ids) == request.seq_len else None


def _without_padding(ids: Int64[np.ndarray, " pos"], pad_id: int | None, where: str) -> Int64[np.ndarray, " _"]:
    """A row up to the padding at its end.

    Raises:
        DataError: the row begins with it, as rows do that are filled up on the left.
    """
    if pad_id is None:
        return ids
    kept = np.flatnonzero(ids != pad_id)
    # One may be BOS, which in many vocabularies is what pads as well.
    if len(kept) and kept[0] > 1:
        raise DataError(
            f"{where} begins with {kept[0]} times the pad_id {pad_id}: put padding behind the tokens, not before them"
        )
    return ids[: kept[-1] + 1 if len(kept) else 0]


def take_distinct(prompts: Iterable[Prompt], request: CorpusRequest, description: str) -> DrawnPrompts:
    """As many prompts as are asked for, none a repeat of others, in order; fewer where only repeats are left.

    Raises:
        UsageError: there are too few, those that repeat others among them.
    """
    seen: set[bytes] = set()
    taken: list[Integer[np.ndarray, " pos"]] = []
    n_repeats = 0
    for prompt in prompts:
        came_before = sum(n for passage, n in prompt.passages if passage in seen)
        if came_before > len(prompt.ids) / 2 or (content := digest([prompt.ids.tobytes()])) in seen:
            n_repeats += 1
            continue
        seen |= {content, *(passage for passage, _ in prompt.passages)}
        taken.append(prompt.ids)
        if len(taken) == request.prompts:
            break
    check_count(len(taken), request, n_repeats)
    repeats = f"; {n_repeats} that repeat others were left out" if n_repeats else ""
    return DrawnPrompts(taken, description + repeats, n_repeats)


def check_count(available: int, request: CorpusRequest, n_repeats: int = 0) -> None:
    """Refuse to go on with fewer prompts than are needed.

    Args:
        available: how many there are, no two alike.
        n_repeats: how many more repeat others; where these would be enough, the distinct ones are measured.

    Raises:
        UsageError: says how many there are.
    """
    if available and available + n_repeats >= request.needed:
        return
    others = (
        "more text" if not request.pack else "a shorter --seq-len" if available else "a shorter --seq-len or more text"
    )
    remedy = f"--prompts {available} or {others}" if available else others
    distinct = "distinct " if n_repeats else ""
    raise UsageError(
        f"corpus {request.corpus} has {available} {distinct}prompts of {request.sizes}, {request.needed} were"
        f" asked for: give {remedy}"
    )


def no_tokenizer(request: CorpusRequest) -> UsageError:
    """What is said when text is asked of a model that has no tokenizer."""
    return UsageError(
        f"corpus {request.corpus} is text, and the model has no tokenizer: put a tokenizer.json into its folder, or"
        " give ready tokens (--corpus FILE.npy)"
    )


def as_ids(values: Sequence[object], where: str) -> Int64[np.ndarray, " pos"]:
    """Token ids as an array.

    Raises:
        DataError: a value is no integer; ``where`` and its index are named.
    """
    for index, value in enumerate(values):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise DataError(f"{where}: token {index} is {value!r}, not an integer id")
    return np.array(values, dtype=np.int64)


def name_key(seed: int, name: str) -> int:
    """A 64-bit hash of (seed, name)."""
    return int.from_bytes(digest([f"{seed}\0{name}".encode(errors="surrogateescape")], n_bytes=8), "little")


def order_passages(documents: Sequence[Document], width: int, seed: int) -> Passages:
    """All passages of ``documents``, in the order in which they are drawn."""
    n_slots = np.array([-(-document.n_bytes // width) for document in documents], dtype=np.int64)
    keys: UInt64[np.ndarray, " document"] = np.array(
        [name_key(seed, document.name) for document in documents], dtype=np.uint64
    )
    document = np.repeat(np.arange(len(documents)), n_slots)
    slot = np.arange(len(document)) - np.repeat(np.cumsum(n_slots) - n_slots, n_slots)
    order = np.argsort(mix_u64(keys[document], as_u64(slot)), kind="stable")
    return Passages(document[order], slot[order])


def read_passage(document: Document, slot: int, width: int) -> str:
    """The passage of one slot; empty where no line starts in it.

    Raises:
        DataError: it is not text.
    """
    offset = slot * width
    window = document.read(offset, offset + 2 * width)
    start = _first_start(window[:width]) if slot else 0
    stop = width + _first_start(window[width:]) if len(window) > width else len(window)
    return _decode(window[start:stop], offset + start, document)


def _first_start(slot: bytes) -> int:
    """Behind the first line end of a slot; behind its first space, or before its first character, where it has none."""
    for mark in (b"\n", b" "):
        found = slot.find(mark)
        if found >= 0:
            return found + 1
    return next((i for i, byte in enumerate(slot[:4]) if byte & 0xC0 != 0x80), 0)


def _decode(data: bytes, offset: int, document: Document) -> str:
    if document.lenient:
        return data.decode("utf-8", errors="replace")
    remedy = "convert it to UTF-8, or leave it out of the corpus"
    if b"\0" in data:
        raise DataError(f"{document.name} is not text (a zero byte at offset {offset + data.index(0)}): {remedy}")
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}"
        raise DataError(f"{document.name} is not UTF-8 text ({where}): {remedy}") from error


def pack_prompts(read: Callable[[int], str], n_passages: int, tokenizer: Tokenizer, seq_len: int) -> Iterator[Prompt]:
    """Prompts of exactly ``seq_len`` ids, made as they are asked for; one that cannot be filled is dropped.

    Args:
        read: the passage at a place in the order of drawing, 0 to ``n_passages`` - 1.
        n_passages: how many there are, those of white space among them.
    """
    front = _encode(range(n_passages), read, tokenizer)
    back = _encode(range(n_passages - 1, -1, -1), read, tokenizer)
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    separator = [] if tokenizer.separator_id is None else [tokenizer.separator_id]
    taken_from = n_passages
    for place, content, ids in front:
        prompt, passages = [*start, *ids], [(content, len(ids))]
        while place < taken_from and len(prompt) < seq_len:
            taken_from, content, more = next(back)  # which comes upon this prompt's own passage before it ends
            if more and len(prompt) > len(start):
                prompt += separator
            passages.append((content, min(len(more), seq_len - len(prompt))))
            prompt += more
        if place >= taken_from:
            return
        yield Prompt(np.array(prompt[:seq_len], dtype=np.int64), passages)


def _encode(
    places: Iterable[int], read: Callable[[int], str], tokenizer: Tokenizer
) -> Iterator[tuple[int, bytes, list[int]]]:
    """The passages that are more than white space: of each its place, a hash of its text, and its ids."""
    texts = ((place, read(place)) for place in places)
    written = ((place, text) for place, text in texts if text.strip())
    while batch := list(islice(written, _PASSAGES_PER_BATCH)):
        encoded = tokenizer.encode_batch([text for _, text in batch])
        yield from ((place, digest([text]), ids) for (place, text), ids in zip(batch, encoded, strict=True))
