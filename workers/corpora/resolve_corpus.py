"""Name, files or token array → one token array with a fingerprint.

Whatever a corpus is made of, workers read one array of token ids, ``int32 [prompt, position]``. It is made once: a
staged array is found again by a hash of what determines it (names, sizes and times of the files, the request, the
tokenizer), and taken only if its content still has the fingerprint that was noted beside it. None of that asks the
network: what was staged once is read from the folder alone.

``own`` is no corpus but stands for each model's own training mix, which ``own_corpus`` names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.corpora.hub_sets import KNOWN_SETS, GeluMix, HubCorpus, parse_hub_corpus
from erasure_sweep.workers.corpora.sampling import CorpusRequest, DrawnPrompts, Prompt, cut_row, take_distinct
from erasure_sweep.workers.corpora.staged_tokens import (
    ResolvedCorpus,
    drawing,
    find_tokens,
    fingerprint_tokens,
    load_tokens,
    write_tokens,
)
from erasure_sweep.workers.corpora.text_files import (
    FileCorpus,
    find_files,
    find_standard_library,
    standard_library_files,
)
from erasure_sweep.workers.errors import DataError, UsageError, nearest
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.manifest import READY_TOKENS
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.tokenizer import BOS_TOKEN, Tokenizer, load_tokenizer
from erasure_sweep.workers.storage.lfs_pointer import refuse_pointer

__all__ = [
    "BOS_TOKEN",
    "KNOWN_CORPORA",
    "CorpusRequest",
    "ResolvedCorpus",
    "Tokenizer",
    "fingerprint_tokens",
    "load_fitting_tokenizer",
    "load_tokenizer",
    "load_tokens",
    "read_text",
    "resolve_corpus",
    "standard_library_files",
]

OWN = "own"
KNOWN_CORPORA = ("stdlib", "gelu-mix", *KNOWN_SETS)
DRAWS_VERSION = 3
"""Raised by hand when the same request gives other tokens, so that arrays staged before are not taken."""

_TRAINING_MIXES = {
    r"(gelu|attn-only|solu)-\d+l|NeelNanda/\w+_C4_Code": "gelu-mix",
    r"(openai-community/)?gpt2(-small|-medium|-large|-xl)?": "openwebtext-10k",
    r"toy-[\w-]+": "stdlib",
}
"""What models were trained on, by their name: GPT-2's own text was never published, OpenWebText is its replication."""


class ArrayCorpus(NamedTuple):
    """A .npy of ready tokens: taken in order, nothing shuffled, nothing added."""

    path: Path
    needs_tokenizer: bool = False

    @property
    def identity(self) -> list[object]:
        stat = self.path.stat()
        return ["array", str(self.path.resolve()), stat.st_size, stat.st_mtime_ns]

    def draw(self, request: CorpusRequest, tokenizer: Tokenizer | None) -> DrawnPrompts:
        tokens = load_tokens(self.path)
        if tokens.shape[1] < request.seq_len and request.pack:
            raise UsageError(
                f"{self.path} has {tokens.shape[1]} tokens per prompt, --seq-len is {request.seq_len}: lower it"
            )
        cut = (cut_row(row.tolist(), request, f"{self.path}, prompt {i},") for i, row in enumerate(tokens))
        return take_distinct(
            (Prompt(ids) for ids in cut if ids is not None),
            request,
            f"{READY_TOKENS} of shape {tokens.shape}, taken in order",
        )


Corpus = ArrayCorpus | FileCorpus | HubCorpus | GeluMix
"""What prompts are drawn from: ``identity`` is JSON of what determines its content, ``draw`` takes prompts."""


def read_text(path: Path) -> str:
    """A source file's text; bytes that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")


def resolve_corpus(
    request: CorpusRequest, tokenizer: str | None, d_vocab: int, n_ctx: int, staging: Path
) -> ResolvedCorpus:
    """Make, or find again, the token array of a request.

    Args:
        request: which corpus, how many prompts of which length, and the seed of their order.
        tokenizer: the model's, as ``load_tokenizer`` takes it; ``None`` where it has none.
        d_vocab: the model's vocabulary, which every id must lie in.
        n_ctx: the model's longest prompt.
        staging: the folder in whose ``corpora`` arrays are kept.

    Raises:
        UsageError: the corpus is unknown or too small, or the prompts do not suit the model.
        DataError: a file is damaged, an id beyond the vocabulary, or the hub out of reach.
    """
    _check_request(request, n_ctx)
    try:
        corpus = find_corpus(request.corpus)
        needed = tokenizer is not None and corpus.needs_tokenizer
        loaded = _load_for_text(tokenizer, d_vocab) if tokenizer is not None and needed else None
        cut = [request.seq_len, request.seed, d_vocab, loaded.fingerprint if loaded else None]
        cut += [] if request.pack and request.pad_id is None else [request.pack, request.pad_id]
        key = fingerprint(json.dumps([DRAWS_VERSION, corpus.identity, *cut]))
        folder = staging / "corpora"
        found = find_tokens(folder, key, request)
        if found is None:
            with drawing(folder, key):
                found = find_tokens(folder, key, request) or _stage(
                    folder, key, corpus.draw(request, loaded), request, d_vocab
                )
        left_out = corpus.left_out if isinstance(corpus, FileCorpus) else ""  # now, whenever the array was drawn
        return found.passing_over(left_out)
    except OSError as error:
        raise DataError(f"{error.filename or request.corpus} cannot be read ({error.strerror or error})") from error


def _check_request(request: CorpusRequest, n_ctx: int) -> None:
    if request.prompts < 1:
        raise UsageError(f"--prompts {request.prompts} is not possible: give 1 or more")
    if request.seq_len < 2:
        raise UsageError(f"--seq-len {request.seq_len} is too short: give 2 or more")
    if request.seq_len > n_ctx:
        raise UsageError(f"--seq-len {request.seq_len} is beyond the model's context: give {n_ctx} or less")


def find_corpus(name: str) -> Corpus:
    """The corpus that ``--corpus`` names; a known name goes before a file of that name.

    Raises:
        UsageError: there is none; the nearest known names are offered.
        DataError: a file is a pointer of Git LFS.
    """
    if name == OWN:
        raise UsageError(
            f"corpus {OWN} stands for each model's own training mix: where one corpus is meant, name it (known: "
            f"{', '.join(KNOWN_CORPORA)})"
        )
    if name == "stdlib":
        return find_standard_library()
    if name == "gelu-mix":
        return GeluMix()
    if name in KNOWN_SETS:
        return KNOWN_SETS[name]
    if name.startswith("hf:"):
        return parse_hub_corpus(name)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        refuse_pointer(path)
        return ArrayCorpus(path)
    if path.exists():
        return find_files(path)
    raise UsageError(
        f"corpus {name} is neither a known name nor a file or folder: {nearest(name, KNOWN_CORPORA)}"
        " (write hf:OWNER/NAME for a data set on the Hugging Face hub)"
    )


def own_corpus(name: str, base: str, spec: str, given: Mapping[str, str]) -> str:
    """The corpus that a model reads where the corpus is ``own``: its training mix, unless the user says another.

    Args:
        name: the model's, as it is shown.
        base: the model of whose training it is a checkpoint; its own name where it is none.
        spec: as the user wrote it, or one of the checkpoints that it stands for.
        given: corpora by spec, name or base, which go in this order, and before what is known.

    Raises:
        UsageError: neither the user nor this module says one.
    """
    for key in (spec, name, base):
        if key in given:
            return given[key]
    for known in _public_names(name, base, spec):
        for pattern, corpus in _TRAINING_MIXES.items():
            if re.fullmatch(pattern, known):
                return corpus
    model = base or name
    raise UsageError(f"corpus = {OWN}: no training mix is known for {model}: add own_corpora: {{{model}: CORPUS}}")


def _public_names(name: str, base: str, spec: str) -> tuple[str, ...]:
    """By what names of a model its training may be known.

    A folder, or another owner's repository, may be called like a model of the study without being it.
    """
    model = spec.rpartition("@")[0] or spec
    if find_entry(model) is None and Path(model).expanduser().is_dir():
        return ()
    return (model,) if "/" in model else (base, name)


def load_fitting_tokenizer(source: str, d_vocab: int) -> Tokenizer:
    """Load a tokenizer whose every id the model has.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, out of reach, or another model's.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.n_ids > d_vocab:
        raise DataError(
            f"tokenizer {source} has ids up to {tokenizer.n_ids - 1}, the model's vocabulary ends at {d_vocab - 1}:"
            " it is another model's"
        )
    return tokenizer


def _load_for_text(source: str, d_vocab: int) -> Tokenizer:
    try:
        return load_fitting_tokenizer(source, d_vocab)
    except DataError as error:
        raise DataError(f"{error}; or give ready tokens (--corpus FILE.npy)") from error


def _stage(folder: Path, key: str, drawn: DrawnPrompts, request: CorpusRequest, d_vocab: int) -> ResolvedCorpus:
    _check_ids(drawn, d_vocab, request.corpus)
    drawn = drawn._replace(description=f"{request.corpus}: {drawn.description}")
    return write_tokens(folder, key, request, drawn)


def _check_ids(drawn: DrawnPrompts, d_vocab: int, corpus: str) -> None:
    for prompt, ids in enumerate(drawn.prompts):
        beyond = np.flatnonzero((ids < 0) | (ids >= d_vocab))
        if len(beyond):
            which = f"distinct prompt {prompt}" if drawn.n_repeats else f"prompt {prompt}"
            raise DataError(
                f"corpus {corpus} has token id {ids[beyond[0]]} at {which}, position {beyond[0]}: the model's ids go from 0 to"
                f" {d_vocab - 1} (an id that stands for padding is given by pad_id)"
            )
