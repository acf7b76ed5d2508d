"""Resolve: what the user named becomes processed weights and a token array, each with a hash.

Runs once per model, before anything is planned and off the driver, in a process that may import torch and TransformerLens.
Workers never read a hub or a corpus: they get the files named here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from workers.composition import check_groups
from workers.corpora import CorpusRequest, resolve_corpus
from workers.measures import SCAN
from workers.models import resolve_model
from workers.records import Group, Resolved, ScanOptions


def resolve(spec: str, request: CorpusRequest, staging: str, groups: tuple[Group, ...] = ()) -> Resolved:
    """Stage one model and its corpus, and see that the named groups of heads are there.

    Raises:
        SweepError: the model or the corpus cannot be had or does not fit; one clear line.
    """
    folder = Path(staging)
    model = resolve_model(spec, folder)
    config = model.config
    check_groups(config.layout, groups)
    options = ScanOptions(groups=groups)
    corpus = resolve_corpus(request, model.tokenizer, config.d_vocab, config.n_ctx, folder)
    return Resolved(
        name=model.name,
        spec=model.spec,
        hash=model.hash,
        weights=str(model.weights),
        weights_bytes=model.weights.stat().st_size,
        architecture=config.to_json(),
        n_params=config.n_params,
        sketches=tuple(
            map(sum, zip(*(measure.sketches(config.layout, options) for measure in SCAN.values()), strict=True))
        ),
        tokens=str(corpus.tokens),
        corpus_fingerprint=corpus.fingerprint,
        corpus_description=corpus.description,
        n_prompts=corpus.n_prompts,
        seq_len=corpus.seq_len,
    )


def has_gpu() -> bool:
    """Whether torch can use a GPU on this machine."""
    return torch.cuda.is_available()
