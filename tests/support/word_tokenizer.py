"""A tokenizer of whole words, each with the space in front of it, as many of GPT-2's are."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PIECE = re.compile(r" ?\d{1,2}| ?[A-Za-z]+| ?[^\w\s]|\s")


class WordTokenizer:
    """Gives an id to each piece when it first sees it.

    Args:
        split: words that are two tokens, each cut in the middle.
    """

    bos_id: int | None = 0
    separator_id: int | None = 0
    fingerprint = "words"

    def __init__(self, split: Sequence[str] = ()) -> None:
        self.split = set(split)
        self.texts = ["<bos>"]

    @property
    def n_ids(self) -> int:
        return 1000

    def _id(self, piece: str) -> int:
        if piece not in self.texts:
            self.texts.append(piece)
        return self.texts.index(piece)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[self._id(part) for piece in _PIECE.findall(text) for part in self._parts(piece)] for text in texts]

    def _parts(self, piece: str) -> list[str]:
        if piece.strip() not in self.split:
            return [piece]
        return [piece[: len(piece) // 2], piece[len(piece) // 2 :]]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.token_strings(ids))

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [self.texts[token_id] if token_id < len(self.texts) else f"#{token_id}" for token_id in ids]
