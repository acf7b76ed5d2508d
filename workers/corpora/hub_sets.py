"""Corpora on the Hugging Face hub, streamed through ``datasets``.

Rows come in the seeded order of a streaming shuffle. Of a set of texts at most the first ``MAX_TEXTS`` rows are read,
since sets can be terabytes; passages are then drawn from them as from any documents. Rows of ready tokens are taken as
they come. Neither depends on the tokenizer, so models with different ones read the same text.

One short request goes before ``datasets`` is asked, which tries a hub that does not answer for long; and rows are read
by a thread of their own, so that a set that no longer gives any can be given up.

``gelu-mix`` is the training mix of the gelu models as the authors of the memory-management paper drew it (Dao, Lau,
Rager and Janiak 2023, "An Adversarial Example for Direct Logit Attribution"): four prompts of c4-tokenized-2b to one
of code-tokenized, both streamed with their shuffle seed and buffer, then put into the order of their
``torch.randperm``. The 300 prompts of the paper are one round of it; another round follows where more are asked for,
so a shorter run is a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from functools import partial
from itertools import chain, islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from erasure_sweep.workers.corpora.row_files import TEXT, TOKENS, choose_column, ids_of, text_of
from erasure_sweep.workers.corpora.sampling import (
    CorpusRequest,
    Document,
    DrawnPrompts,
    Prompt,
    cut_row,
    draw_text,
    no_tokenizer,
    take_distinct,
)
from erasure_sweep.workers.errors import DataError, UsageError, one_line
from erasure_sweep.workers.hub.files import PROBE_TIMEOUT_S, quiet_hub
from erasure_sweep.workers.manifest import READY_TOKENS
from erasure_sweep.workers.models.tokenizer import Tokenizer

MAX_TEXTS, MAX_TEXT_BYTES = 10_000, 256_000_000
MIX_SEED, MIX_BUFFER_ROWS = 5235, 10
MIX_ROUND = (("c4-tokenized-2b", 240), ("code-tokenized", 60))
ROW_TIMEOUT_S = 300.0
"""Without a row for so long a set is given up; its first row comes with thousands of others, over lines of any width."""
_BUFFER_ROWS = 1000
_MAX_SHORT_ROWS = 1000
_PARQUET_BRANCH = "refs/convert/parquet"
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

Row = dict[str, Any]


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

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
        if self.column == TEXT and tokenizer is None:
            raise no_tokenizer(request)  # before anything is fetched
        with quiet_hub():
            return self._draw(request, tokenizer)

    def _draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
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

    def stream(self, seed: int, buffer_rows: int) -> Iterator[Row]:
        """Rows in the order of a streaming shuffle.

        Raises:
            DataError: the hub cannot be reached, has no such data set, configuration or split, or stops sending.
        """
        probe(self.repo)
        try:
            yield from in_time(self._shuffled(seed, buffer_rows), ROW_TIMEOUT_S)
        except Exception as error:  # what datasets, fsspec and the hub's client raise has no common base
            raise _refusal(self.repo, error) from error

    def _shuffled(self, seed: int, buffer_rows: int) -> Generator[Row, None, None]:
        _restrain_datasets()
        yield from self._load().shuffle(seed=seed, buffer_size=buffer_rows)

    def _load(self) -> Any:
        from datasets import load_dataset

        try:
            return load_dataset(self.repo, self.config, split=self.split, streaming=True)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
        # The hub keeps the rows of a set that is a script as parquet in a branch, each configuration in a folder.
        folder = self.config or _only_folder(self.repo)
        return load_dataset(self.repo, data_dir=folder, split=self.split, streaming=True, revision=_PARQUET_BRANCH)

    def cut_rows(self, rows: Iterator[Row], request: CorpusRequest) -> Iterator[Int64[np.ndarray, " pos"]]:
        """Rows as prompts; where these are of one length, those that are long enough.

        Raises:
            UsageError: none of many rows is.
        """
        n_short, longest = 0, 0
        for index, row in enumerate(rows):
            where = f"data set {self.repo}, row {index} as streamed,"
            ids = ids_of(row, where, not request.pack)
            prompt = cut_row(ids, request, where)
            if prompt is not None:
                yield prompt
                continue
            n_short, longest = n_short + 1, max(longest, sum(value != request.pad_id for value in ids))
            if n_short == _MAX_SHORT_ROWS:
                raise UsageError(
                    f"rows of {self.repo} have up to {longest} tokens, --seq-len is {request.seq_len}: lower it"
                )

    def _draw_tokens(self, rows: Iterator[Row], request: CorpusRequest) -> DrawnPrompts:
        description = f"rows of {READY_TOKENS} of {self.repo}, streamed in the order of seed {request.seed}"
        return take_distinct(map(Prompt, self.cut_rows(rows, request)), request, description)

    def _documents(self, rows: Iterator[Row]) -> Iterator[Document]:
        n_bytes = 0
        for index, row in enumerate(islice(rows, MAX_TEXTS)):
            text = text_of(row, f"data set {self.repo}, row {index} as streamed,")
            if text:
                yield Document(f"{self.repo}:{index}", len(text), partial(_slice, text))
            n_bytes += len(text)
            if n_bytes > MAX_TEXT_BYTES:
                return


class GeluMix(NamedTuple):
    """The authors' draw from the training mix of the gelu models; its seed is theirs, whatever the sweep's."""

    identity: tuple[str, ...] = ("gelu-mix",)
    needs_tokenizer: bool = False

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
        with quiet_hub():
            return self._draw(request)

    def _draw(self, request: CorpusRequest) -> DrawnPrompts:
        parts = " and ".join(f"{n} prompts of {name}" for name, n in MIX_ROUND)
        description = f"{READY_TOKENS}, rounds of {parts}, streamed with seed {MIX_SEED} and permuted with it"
        return take_distinct(map(Prompt, self._prompts(request)), request, description)

    def _prompts(self, request: CorpusRequest) -> Iterator[Int64[np.ndarray, " pos"]]:
        """Round after round, as long as both sets have enough for a whole one."""
        streams = [self._stream(name, request) for name, _ in MIX_ROUND]
        while True:
            taken = [list(islice(stream, n)) for stream, (_, n) in zip(streams, MIX_ROUND, strict=True)]
            if any(len(rows) < n for rows, (_, n) in zip(taken, MIX_ROUND, strict=True)):
                return
            prompts = [*chain.from_iterable(taken)]
            yield from (prompts[i] for i in torch_permutation(MIX_SEED, len(prompts)))

    @staticmethod
    def _stream(name: str, request: CorpusRequest) -> Iterator[Int64[np.ndarray, " pos"]]:
        corpus = KNOWN_SETS[name]
        return corpus.cut_rows(corpus.stream(MIX_SEED, MIX_BUFFER_ROWS), request)


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
    if not _REPO_ID.fullmatch(parts[0]) or len(parts) > 3:
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


def probe(repo: str) -> None:
    """Ask the hub once, and not for long, whether it has a data set.

    Raises:
        DataError: it has not, does not give it, or cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    try:
        HfApi(endpoint=constants.ENDPOINT).dataset_info(repo, timeout=PROBE_TIMEOUT_S)
    except Exception as error:  # the hub's client raises errors of its HTTP library, which differs by version
        raise _refusal(repo, error) from error


def in_time(rows: Generator[Row, None, None], limit_s: float) -> Iterator[Row]:
    """Rows as they come, read by a thread, each only when it is asked for.

    Raises:
        TimeoutError: one takes longer than ``limit_s``; the thread is left behind.
    """
    asked: SimpleQueue[bool] = SimpleQueue()
    answers: SimpleQueue[Row | Exception | None] = SimpleQueue()
    reader = Thread(target=_read_when_asked, args=(rows, asked, answers), daemon=True)
    reader.start()
    late = False
    try:
        while True:
            asked.put(True)
            try:
                answer = answers.get(timeout=limit_s)
            except Empty:
                late = True
                raise TimeoutError(f"no row in {limit_s:.0f} seconds") from None
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                return
            yield answer
    finally:
        asked.put(False)
        if not late:
            reader.join()


def _read_when_asked(
    rows: Generator[Row, None, None], asked: SimpleQueue[bool], answers: SimpleQueue[Row | Exception | None]
) -> None:
    while asked.get():
        try:
            answers.put(next(rows, None))
        except Exception as error:  # noqa: BLE001 it is raised where rows are waited for
            answers.put(error)
    rows.close()


def _only_folder(repo: str) -> str:
    """The configuration of a set in the branch of parquet files, where there is no other."""
    from huggingface_hub import HfApi, constants

    files = HfApi(endpoint=constants.ENDPOINT).list_repo_files(repo, repo_type="dataset", revision=_PARQUET_BRANCH)
    folders = sorted({file.partition("/")[0] for file in files if "/" in file})
    if len(folders) != 1:
        raise ValueError(f"it has the configurations {', '.join(folders) or 'none'}: write hf:{repo}:CONFIG")
    return folders[0]


def _refusal(repo: str, error: Exception) -> DataError:
    """What the failure of a data set means, and what to do about it."""
    from huggingface_hub import constants, errors

    hub, where = constants.ENDPOINT, f"data set {repo}"
    told = next((e for e in _causes(error) if isinstance(e, errors.RepositoryNotFoundError)), error)
    if isinstance(told, errors.GatedRepoError) or "is a gated dataset" in str(error):
        return DataError(f"{where} is gated: accept its terms on {hub}/datasets/{repo}, then `hf auth login`")
    if isinstance(told, errors.RepositoryNotFoundError):
        return DataError(f"{hub} has no {where}, or it is private: check the name, or `hf auth login`")
    remedy = (
        "fetch it where there is a network (erasure-sweep fetch) and give that folder by --staging, or give --corpus "
        "stdlib or ready tokens (--corpus FILE.npy)"
    )
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in _causes(error)):
        return DataError(f"{where} is not staged and HF_HUB_OFFLINE is set: {remedy}")
    if isinstance(told, errors.HfHubHTTPError) and told.response.status_code >= 500:
        return DataError(f"{hub} answers {told.response.status_code} for {where}: try later, or {remedy}")
    return DataError(f"{where} cannot be loaded from {hub} ({one_line(error).rstrip('.')}): run again, or {remedy}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _restrain_datasets() -> None:
    """For this process: nothing printed, and no 20 repetitions of what the hub's client repeats six times, for minutes."""
    from datasets import config, disable_progress_bars
    from datasets.utils import logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)  # what matters of it comes as an exception
    for name in ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_READ_MAX_RETRIES"):
        setattr(config, name, 1)
    for name in ("STREAMING_OPEN_RETRY_INTERVAL", "STREAMING_READ_RETRY_INTERVAL"):
        setattr(config, name, 1)
