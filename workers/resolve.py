"""Resolve: what the user named becomes processed weights and a token array, each with a hash.

Runs once per model, before anything is planned and off the driver, in a process that may import torch and TransformerLens.
Workers never read a hub or a corpus: they get the files named here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer

from erasure_sweep.workers.corpora.resolve_corpus import (
    OWN,
    CorpusRequest,
    ResolvedCorpus,
    fingerprint_tokens,
    load_fitting_tokenizer,
    load_tokens,
    own_corpus,
    resolve_corpus,
)
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.measures.registry import count_sketches
from erasure_sweep.workers.measures.scan.composition import check_groups
from erasure_sweep.workers.models.files.staged_weights import read_staged
from erasure_sweep.workers.models.model_config import weights_bytes
from erasure_sweep.workers.models.resolve_model import ResolvedModel, resolve_model
from erasure_sweep.workers.positions import prompt_lengths
from erasure_sweep.workers.records import Group, Resolved, ScanOptions, VerifyRequest
from erasure_sweep.workers.storage.own_staging import mark_staging


def resolve(
    spec: str,
    request: CorpusRequest,
    staging: str,
    groups: tuple[Group, ...] = (),
    writers: tuple[str, ...] = (),
    verify: VerifyRequest | None = None,
    own_corpora: Mapping[str, str] | None = None,
    refresh: bool = False,
    halved: bool = False,
) -> Resolved:
    """Stage one model and its corpus, and see that the named writers and groups of heads are there.

    Args:
        request: the prompts to scan.
        groups, writers: what the user named.
        verify: what verify needs beside; ``None`` where nothing is verified.
        own_corpora: what models read by name, beside the training mixes that are known, where the corpus is ``own``.
        refresh: ask the hub for what is staged as well.
        halved: stage matrices in bfloat16.

    Raises:
        SweepError: the model or the corpus cannot be had or does not fit; one clear line.
    """
    folder = Path(staging)
    mark_staging(folder)
    model = resolve_model(spec, folder, refresh, halved)
    if request.corpus == OWN:
        request = request._replace(corpus=own_corpus(model.name, model.base, spec, own_corpora or {}))
    config = model.config
    check_groups(config.layout, groups, writers)
    options = ScanOptions(groups=groups)
    wanted = request if verify is None else _with_more(request, verify.prompts)
    corpus = resolve_corpus(wanted, model.tokenizer, config.d_vocab, config.n_ctx, folder)
    n_prompts = min(request.prompts, corpus.n_prompts)
    scanned = load_tokens(corpus.tokens)[:n_prompts]
    resolved = Resolved(
        name=model.name,
        spec=model.spec,
        hash=model.hash,
        weights=str(model.weights),
        weights_bytes=weights_bytes(config),
        architecture=config.to_json(),
        n_params=config.n_params,
        sketches=count_sketches(config.layout, options),
        tokens=str(corpus.tokens),
        corpus_fingerprint=fingerprint_tokens(scanned),
        corpus_description=corpus.description,
        n_prompts=n_prompts,
        seq_len=corpus.seq_len,
        lengths=tuple(sorted(Counter(prompt_lengths(scanned).tolist()).items())),
        tokenizer=model.tokenizer,
        base=model.base,
        training_tokens=model.training_tokens,
        training_steps=model.training_steps,
        corpus=request.corpus,
    )
    if corpus.left_out:
        resolved = _noting(resolved, f"files of the corpus that are left out: {corpus.left_out}")
    for line in model.notes:
        resolved = _noting(resolved, line)
    if n_prompts < request.prompts:
        resolved = _noting(
            resolved,
            f"the corpus holds {n_prompts} distinct prompts of {request.sizes}, the others repeat them, so "
            f"{n_prompts} are measured instead of {request.prompts}",
        )
    return resolved if verify is None else _prepare_verify(resolved, model, corpus, verify, request.sizes)


def _with_more(request: CorpusRequest, n_prompts: int) -> CorpusRequest:
    """The same prompts and, where the corpus holds them, more behind them."""
    return request._replace(prompts=request.prompts + n_prompts, least=request.prompts)


def _prepare_verify(
    resolved: Resolved, model: ResolvedModel, corpus: ResolvedCorpus, verify: VerifyRequest, sizes: str
) -> Resolved:
    """Add which prompts verify measures on, what the user gave, and a tokenizer that can be read."""
    span = verify_span(resolved.n_prompts, corpus.n_prompts, verify.prompts)
    tokens = load_tokens(corpus.tokens)
    resolved = resolved._replace(
        verify_prompts=span,
        held_out=none_among(tokens[slice(*span)], tokens[: resolved.n_prompts]),
        verify_fingerprint=corpus.fingerprint,
        given=tokenize_given(verify, model.tokenizer, model.config.d_vocab, resolved.seq_len),
    )
    if not resolved.held_out:
        resolved = _noting(
            resolved,
            f"the corpus holds no more than {corpus.n_prompts} prompts of {sizes}, so verify measures "
            "on prompts that were scanned: what it finds is not held out",
        )
    first, stop = resolved.verify_prompts
    if resolved.held_out and stop - first < verify.prompts:
        resolved = _noting(
            resolved,
            f"the corpus holds no more than {corpus.n_prompts} prompts of {sizes}, so verify measures "
            f"on {stop - first} instead of {verify.prompts}",
        )
    try:
        if model.tokenizer is not None:
            load_fitting_tokenizer(model.tokenizer, model.config.d_vocab)
    except SweepError as error:  # tokens can be measured, and shown as ids
        return _noting(resolved, f"tokens are shown as ids: {error}")._replace(tokenizer=None)
    return resolved


def _noting(resolved: Resolved, line: str) -> Resolved:
    return resolved._replace(notes=(*resolved.notes, f"{resolved.name}: {line}"))


def none_among(prompts: Integer[np.ndarray, "prompt pos"], scanned: Integer[np.ndarray, "scanned pos"]) -> bool:
    """Whether no prompt is among the scanned ones, by its tokens."""
    seen = {prompt.tobytes() for prompt in scanned}
    return not any(prompt.tobytes() in seen for prompt in prompts)


def verify_span(n_scanned: int, n_prompts: int, wanted: int) -> tuple[int, int]:
    """First and one past the last prompt that verify measures on: behind the scanned ones, else the first of these.

    No two prompts of a corpus' array are alike, so those behind the scanned ones are others by their content.

    Args:
        n_scanned: the first so many prompts are scanned.
        n_prompts: how many the corpus holds, at most ``n_scanned + wanted``.
        wanted: how many verify would measure on.

    Raises:
        UsageError: there are fewer than two, and prompts lend each other a writer's output.
    """
    if n_prompts - n_scanned >= 2:
        return n_scanned, n_prompts
    if n_scanned < 2:
        raise UsageError(
            f"verify needs 2 distinct prompts and {n_scanned} is scanned, of a corpus that holds {n_prompts}: give more, "
            "or --stage scan"
        )
    return 0, min(wanted, n_scanned)


def tokenize_given(
    verify: VerifyRequest, tokenizer: str | None, d_vocab: int, seq_len: int
) -> tuple[tuple[int, ...], ...]:
    """Token ids of the prompts that the user gave, BOS first where there is one.

    Raises:
        UsageError: there is no tokenizer, or a prompt has no token that is measured, or is longer than those of the corpus.
        DataError: the tokenizer cannot be read, or is another model's.
    """
    texts = verify.given
    if not texts:
        return ()
    if tokenizer is None:
        raise UsageError(
            f"adversarial_prompts: {_shown(texts[0])} is text, and the model has no tokenizer: leave it out, or put a "
            "tokenizer.json into the model's folder"
        )
    loaded = load_fitting_tokenizer(tokenizer, d_vocab)
    start = () if loaded.bos_id is None else (loaded.bos_id,)
    given = tuple((*start, *ids) for ids in loaded.encode_batch(list(texts)))
    for text, ids in zip(texts, given, strict=True):
        if not ids:
            raise UsageError(f"adversarial_prompts: {_shown(text)} has no token: leave it out")
        if len(ids) == 1 and not verify.first_position:
            raise UsageError(
                f"adversarial_prompts: {_shown(text)} is a single token, and position 0 is left out: make it longer, or set "
                "first_position: true"
            )
        if len(ids) > seq_len:
            raise UsageError(
                f"adversarial_prompts: {_shown(text)} has {len(ids)} tokens{' with BOS' if start else ''}, --seq-len is "
                f"{seq_len}: shorten it, or give longer prompts"
            )
    return given


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def check_staged(
    weights: Path | None, hash_: str | None, tokens: Path | None, corpus_fingerprint: str | None, n_prompts: int | None
) -> list[str]:
    """A line on each of these staged files that is damaged, or is not what it was when a model was measured with it."""
    said = []
    try:
        if weights is not None and read_staged(weights).hash != hash_:
            said.append(f"{weights} holds other weights than those that were measured")
    except DataError as error:
        said.append(str(error))
    try:
        if tokens is not None and fingerprint_tokens(load_tokens(tokens)[:n_prompts]) != corpus_fingerprint:
            said.append(f"{tokens} holds other tokens than those that were measured")
    except DataError as error:
        said.append(str(error))
    return said


def has_gpu() -> bool:
    """Whether torch can use a GPU on this machine."""
    return torch.cuda.is_available()
