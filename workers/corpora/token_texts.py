"""Token ids as text, where the model has a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from erasure_sweep.workers.corpora.resolve_corpus import load_tokens
from erasure_sweep.workers.models.tokenizer import Tokenizer, load_tokenizer
from erasure_sweep.workers.records import Place

SHOWN_TOKENS = 60
"""How many tokens of a prompt, the last, are shown as its text."""


class TokenTexts:
    """Texts of tokens and places.

    Args:
        tokenizer: as ``load_tokenizer`` takes it; without one there are no texts.
        tokens: path of the corpus' token array.
        given: token ids of the prompts that the user gave.
    """

    def __init__(self, tokenizer: str | None, tokens: str | None, given: Sequence[Sequence[int]]) -> None:
        self._source, self._tokens, self._given = tokenizer, tokens, given

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return None if self._source is None else load_tokenizer(self._source)

    def token(self, token_id: int) -> str | None:
        """The text of one token."""
        return self.tokens([token_id])[0]

    def tokens(self, token_ids: Sequence[int]) -> Sequence[str | None]:
        """The texts of some tokens, each by itself."""
        return [None] * len(token_ids) if self._tokenizer is None else self._tokenizer.token_strings(token_ids)

    def text(self, place: Place) -> str | None:
        """The end of a place's prompt, up to the place; a given prompt from its first token behind a BOS."""
        if self._tokenizer is None:
            return None
        if place.source == "given":
            ids = self._given[place.prompt]
            start = int(ids[0] == self._tokenizer.bos_id)
            return self._tokenizer.decode(ids[start : place.position + 1])
        if self._tokens is None:
            return None
        start = max(0, place.position + 1 - SHOWN_TOKENS)
        return self._tokenizer.decode(
            load_tokens(Path(self._tokens))[place.prompt, start : place.position + 1].tolist()
        )
