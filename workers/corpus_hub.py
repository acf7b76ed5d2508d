"""Corpora on the Hugging Face hub, streamed through ``datasets``.

Rows come in the seeded order of a streaming shuffle. Of a set of texts at most the first ``MAX_TEXTS`` rows are read,
since sets can be terabytes; passages are then drawn from them as from any documents. Rows of ready tokens are taken as
they come.

``gelu-mix`` is the training mix of the gelu models as the authors of the memory-management paper drew it (Dao, Lau,
Rager and Janiak 2023, "An Adversarial Example for Direct Logit Attribution"): four prompts of c4-tokenized-2b to one
of code-tokenized, both streamed with their shuffle seed and buffer, then put into the order of their
``torch.randperm``. The 300 prompts of the paper are one round of it; another round follows where more are asked for,
so a shorter run is a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from workers.corpus_rows import TEXT, TOKENS, choose_column, ids_of, text_of
from workers.errors import DataError, UsageError
from workers.sampling import CorpusRequest, Document, Draw, as_ids, check_count, draw_text, no_tokenizer
from workers.tokenization import Tokenizer

MAX_TEXTS, MAX_TEXT_BYTES = 10_000, 256_000_000
MIX_SEED, MIX_BUFFER_ROWS = 5235, 10
MIX_ROUND = (("c4-tokenized-2b", 240), ("code-tokenized", 60))
_BUFFER_ROWS = 1000
_MAX_SHORT_ROWS = 1000


class HubCorpus(NamedTuple):
    """A data set on the hub; of which column, when that is known beforehand."""

    repo: str
    config: str | None = None
    split: str = "train"
    column: str | None = None

    @property
    def identity(self) -> list[object]:
        return ["hub", *self]

    @property
    def needs_tokenizer(self) -> bool:
        return self.column != TOKENS

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> Draw:
        if self.column == TEXT and tokenizer is None:
            raise no_tokenizer(request)  # before anything is fetched
        rows = self.stream(request.seed, _BUFFER_ROWS)
        first = next(rows, None)
        if first is None:
            raise DataError(f"data set {self.repo} holds no rows")
        rows = chain([first], rows)
        if choose_column(list(first), f"data set {self.repo}") == TOKENS:
            return self._draw_tokens(rows, request)
        if tokenizer is None:
            raise no_tokenizer(request)
        documents = list(self._documents(rows))
        drawn = draw_text(documents, request, tokenizer)
        return drawn._replace(description=f"first rows in the order of seed {request.seed}: {drawn.description}")

    def stream(self, seed: int, buffer_rows: int) -> Iterator[dict[str, Any]]:
        """Rows in the order of a streaming shuffle.

        Raises:
            DataError: the hub cannot be reached, or has no such data set, configuration or split.
        """
        try:
            from datasets import load_dataset

            _bound_retries()
            dataset = load_dataset(self.repo, self.config, split=self.split, streaming=True)
            yield from dataset.shuffle(seed=seed, buffer_size=buffer_rows)
        except Exception as error:  # what datasets, fsspec and the hub's client raise has no common base
            raise self._unreachable(error) from error

    def long_rows(self, rows: Iterator[dict[str, Any]], seq_len: int) -> Iterator[Int64[np.ndarray, " pos"]]:
        """The first ``seq_len`` ids of rows that have as many.

        Raises:
            UsageError: none of many rows has.
        """
        n_short, longest = 0, 0
        for index, row in enumerate(rows):
            where = f"data set {self.repo}, row {index} as streamed,"
            ids = ids_of(row, where)
            if len(ids) >= seq_len:
                yield as_ids(ids[:seq_len], where)
                continue
            n_short, longest = n_short + 1, max(longest, len(ids))
            if n_short == _MAX_SHORT_ROWS:
                raise UsageError(f"rows of {self.repo} have up to {longest} tokens, --seq-len is {seq_len}: lower it")

    def _draw_tokens(self, rows: Iterator[dict[str, Any]], request: CorpusRequest) -> Draw:
        drawn = list(islice(self.long_rows(rows, request.seq_len), request.prompts))
        check_count(len(drawn), request)
        return Draw(
            np.stack(drawn), f"rows of ready tokens of {self.repo}, streamed in the order of seed {request.seed}"
        )

    def _documents(self, rows: Iterator[dict[str, Any]]) -> Iterator[Document]:
        n_bytes = 0
        for index, row in enumerate(islice(rows, MAX_TEXTS)):
            text = text_of(row, f"data set {self.repo}, row {index} as streamed,")
            if text:
                yield Document(f"{self.repo}:{index}", len(text), partial(_slice, text))
            n_bytes += len(text)
            if n_bytes > MAX_TEXT_BYTES:
                return

    def _unreachable(self, error: Exception) -> DataError:
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        return DataError(
            f"data set {self.repo} cannot be loaded from the Hugging Face hub ({why}): check the name, the connection and"
            " HF_HUB_OFFLINE, or give ready tokens (--corpus FILE.npy) or --corpus stdlib"
        )


class GeluMix(NamedTuple):
    """The authors' draw from the training mix of the gelu models; its seed is theirs, whatever the sweep's."""

    identity: tuple[str, ...] = ("gelu-mix",)
    needs_tokenizer: bool = False

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> Draw:
        streams = [self._stream(name, request.seq_len) for name, _ in MIX_ROUND]
        rounds: list[Int64[np.ndarray, "prompt pos"]] = []
        while sum(map(len, rounds)) < request.prompts:
            taken = [list(islice(stream, n)) for stream, (_, n) in zip(streams, MIX_ROUND, strict=True)]
            if any(len(rows) < n for rows, (_, n) in zip(taken, MIX_ROUND, strict=True)):
                break
            prompts = np.stack([*chain.from_iterable(taken)])
            rounds.append(prompts[torch_permutation(MIX_SEED, len(prompts))])
        check_count(sum(map(len, rounds)), request)
        parts = " and ".join(f"{n} prompts of {name}" for name, n in MIX_ROUND)
        tokens = np.concatenate(rounds)[: request.prompts]
        return Draw(tokens, f"rounds of {parts}, streamed with seed {MIX_SEED} and permuted with it")

    @staticmethod
    def _stream(name: str, seq_len: int) -> Iterator[Int64[np.ndarray, " pos"]]:
        corpus = KNOWN_SETS[name]
        return corpus.long_rows(corpus.stream(MIX_SEED, MIX_BUFFER_ROWS), seq_len)


KNOWN_SETS = {
    "c4-tokenized-2b": HubCorpus("NeelNanda/c4-tokenized-2b", column=TOKENS),
    "code-tokenized": HubCorpus("NeelNanda/code-tokenized", column=TOKENS),
    "pile-10k": HubCorpus("NeelNanda/pile-10k", column=TEXT),
    "c4-10k": HubCorpus("NeelNanda/c4-10k", column=TEXT),
    "code-10k": HubCorpus("NeelNanda/code-10k", column=TEXT),
    "openwebtext-10k": HubCorpus("stas/openwebtext-10k", column=TEXT),
}


def parse_hub_corpus(corpus: str) -> HubCorpus:
    """``hf:REPO[:CONFIG][:SPLIT]``; an empty CONFIG is the data set's own default.

    Raises:
        UsageError: it has another form.
    """
    parts = corpus.removeprefix("hf:").split(":")
    if not parts[0] or len(parts) > 3:
        raise UsageError(f"corpus {corpus} is not of the form hf:REPO[:CONFIG][:SPLIT]")
    repo, config, split = [*parts, "", ""][:3]
    return HubCorpus(repo, config or None, split or "train")


def torch_permutation(seed: int, n: int) -> Int64[np.ndarray, " n"]:
    """What ``torch.manual_seed(seed); torch.randperm(n)`` gives on a CPU: Fisher-Yates shuffle by Mersenne Twister."""
    raw = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    order = np.arange(n)
    for i, draw in enumerate(raw.tolist()):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def _slice(data: bytes, start: int, stop: int) -> bytes:
    return data[start:stop]


def _bound_retries() -> None:
    """For this process: ``datasets`` repeats 20 times what the hub's client repeats six times, which would take minutes."""
    from datasets import config

    for name in ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES"):
        setattr(config, name, 1)
    for name in ("STREAMING_OPEN_RETRY_INTERVAL", "STREAMING_READ_RETRY_INTERVAL"):
        setattr(config, name, 1)
