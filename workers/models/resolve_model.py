"""Name, directory, hub name or bundled model → weights as TransformerLens processes them, staged once.

Resolving converts a model once for the content of its files, whatever number of processes ask for it. What a name of the
hub was found to be is remembered beside the staged weights, with its tokenizer, so that the staging folder is enough
where there is no hub. Later resolves and the workers read the staged file alone, hash its content again, and need no
TransformerLens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from erasure_sweep.workers.errors import DataError, SweepError
from erasure_sweep.workers.models.catalog import find_entry, locate
from erasure_sweep.workers.models.checkpoints import SEPARATOR, find_checkpoint, split_point
from erasure_sweep.workers.models.device_memory import refuse_larger_than
from erasure_sweep.workers.models.files.staged_weights import (
    StagedHeader,
    count_stored,
    find_staged,
    locked,
    read_staged,
    write_halved,
)
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.known_names import (
    KnownModel,
    recall_checkpoints,
    recall_model,
    remember_model,
    staged_path,
)
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.conversion import convert, refuse_by_config
from erasure_sweep.workers.models.sources import ModelFiles, find_model_files
from erasure_sweep.workers.models.tokenizer import stage_tokenizer
from erasure_sweep.workers.storage.whole_file import temporary_beside


class ResolvedModel(NamedTuple):
    """A model whose processed weights are staged."""

    name: str
    """As shown: the bundled or hub name, or the last part of the directory, with the checkpoint or revision."""
    spec: str
    """What the user typed."""
    weights: Path
    """The staged safetensors file; its metadata holds config, hash and origin."""
    hash: str
    """Of config and processed weights."""
    config: ModelConfig
    tokenizer: str | None
    """Path of a tokenizer.json or of a tokenizer's directory; a hub repository where it could not be staged; None where
    the model names none."""
    base: str = ""
    """The name without checkpoint or revision."""
    training_tokens: int | None = None
    """Tokens the weights were trained on, where that is known."""
    training_steps: int | None = None
    notes: tuple[str, ...] = ()
    """What the user should hear of where it was found."""


def resolve_model(spec: str, staging: Path, refresh: bool = False, halved: bool = False) -> ResolvedModel:
    """Find a model, convert it unless that was done before, and say where its processed weights lie.

    A name of the hub whose weights are staged is taken from the staging folder; neither the hub nor its cache is asked.

    Args:
        spec: a name of the catalog or of TransformerLens, a hub repository or a directory; behind an ``@`` a checkpoint
            or a revision.
        staging: the folder that keeps processed weights, tokenizers and names between runs.
        refresh: ask the hub for what is staged as well.
        halved: stage matrices in bfloat16, which is enough where the forward is.

    Raises:
        UsageError: nothing has this name, or there is no such checkpoint.
        DataError: the model's files cannot be fetched or used, or the model cannot be measured.
    """
    known = None if refresh else _find_known(spec, staging)
    found = _find_weights(known, staging, halved) if known else None
    if known is not None and found is not None:
        return _resolved(spec, known, found, staging)
    try:
        source = find_model_files(spec, staging, refresh, refuse_by_config)
        weights = _stage_weights(source, staging, halved)
    except DataError as error:
        if known is None:
            raise
        path = staged_path(staging, known.fingerprint, halved)
        raise DataError(f"staged weights {path} are missing or damaged and cannot be made anew: {error}") from error
    described = _described(spec, source)
    resolved = _resolved(spec, described, weights, staging, refresh)
    if source.remote:
        for name in {spec, _canonical(spec, staging) or spec}:
            remember_model(described._replace(spec=name), staging)
    if source.passed_over:
        line = f"the weights are those of {source.weights[0].name}: passed over is {', '.join(source.passed_over)}"
        return resolved._replace(notes=(line,))
    return resolved


def load_model(
    weights: Path | bytes, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ModelConfig, LeanModel]:
    """A staged model on a device.

    Args:
        weights: the file that ``resolve_model`` names, or its content.
        device, dtype: where and how the forward runs.

    Raises:
        DataError: the file is missing or damaged, or its weights are larger than the device's memory.
    """
    refuse_larger_than(torch.device(device), count_stored(weights), dtype)
    staged = read_staged(weights)
    return staged.config, LeanModel(staged.config, staged.weights, device, dtype)


def _find_known(spec: str, staging: Path) -> KnownModel | None:
    """What a name of the hub was found to be, under this spelling or another that means the same."""
    name = split_point(spec)[0]
    entry = find_entry(name)
    if entry is None and Path(name).expanduser().exists():
        return None
    # what the name was last found to be counts for the repository written out as well
    found = recall_model(spec if entry is None else entry.name + spec.removeprefix(name), staging)
    if found is not None or not (staging / "names").is_dir():
        return found
    canonical = _canonical(spec, staging)
    return recall_model(canonical, staging) if canonical else None


def _canonical(spec: str, staging: Path) -> str | None:
    """The one spelling of a model of the hub, its checkpoint by tokens or label; ``None`` for a directory."""
    name, point = split_point(spec)
    location = locate(name)
    if location.kind == "directory" or point is None:
        return location.spec if location.kind == "hub" else None
    training = recall_checkpoints(location.place, staging)
    if training is not None:
        point = str(find_checkpoint(training, point, name).point)
    return f"{location.spec}{SEPARATOR}{point}"


class _Staged(NamedTuple):
    """A staged file, and what it is."""

    path: Path
    header: StagedHeader


def _find_weights(known: KnownModel, staging: Path, halved: bool) -> _Staged | None:
    """The processed weights of a known model; halved ones are made of whole ones where those are staged."""
    path, whole = (staged_path(staging, known.fingerprint, each) for each in (halved, False))
    header = find_staged(path)
    if header is None and halved and find_staged(whole) is not None:
        header = _made_once(path, known.name, lambda: write_halved(whole, path, known.name))
    return _Staged(path, header) if header else None


def _stage_weights(source: ModelFiles, staging: Path, halved: bool) -> _Staged:
    """The processed weights of a source, made unless they are there; other processes wait meanwhile."""
    path, whole = (staged_path(staging, source.fingerprint, each) for each in (halved, False))

    def make() -> StagedHeader:
        if not halved:
            staged = convert(source, path)
            return StagedHeader(staged.config, staged.hash)
        if find_staged(whole) is not None:
            return write_halved(whole, path, source.name)
        # Whole first, since the forward is held against another before anything is rounded.
        with temporary_beside(path) as first:
            convert(source, first)
            return write_halved(first, path, source.name)

    return _Staged(path, _made_once(path, source.name, make))


def _made_once(path: Path, name: str, make: Callable[[], StagedHeader]) -> StagedHeader:
    """What a staged file is, made under its lock unless it is there."""
    header = find_staged(path)
    if header is not None:
        return header
    with locked(path, name):
        header = find_staged(path)
        if header is None:
            for left in path.parent.glob(f".*{path.name}.*.tmp"):  # by a process that was killed: this one has the lock
                left.unlink(missing_ok=True)
            header = make()
    return header


def _described(spec: str, source: ModelFiles) -> KnownModel:
    return KnownModel(
        spec=spec,
        name=source.name,
        base=source.base,
        fingerprint=source.fingerprint,
        origin=source.origin,
        tokenizer=source.tokenizer,
        training_tokens=source.training_tokens,
        training_steps=source.training_steps,
    )


def _resolved(spec: str, found: KnownModel, staged: _Staged, staging: Path, refresh: bool = False) -> ResolvedModel:
    tokenizer = found.tokenizer
    if tokenizer is not None:
        with suppress(SweepError):  # ready tokens need none; whoever does is told when it is loaded
            tokenizer = stage_tokenizer(tokenizer, staging, refresh)
    return ResolvedModel(
        name=found.name,
        spec=spec,
        weights=staged.path,
        hash=staged.header.hash,
        config=staged.header.config,
        tokenizer=tokenizer,
        base=found.base,
        training_tokens=found.training_tokens,
        training_steps=found.training_steps,
    )
