"""Name, directory, hub name or bundled model → weights as TransformerLens processes them, staged once.

Resolving converts a model once for the content of its files, whatever number of processes ask for it. What a name of the
hub was found to be is remembered beside the staged weights, with its tokenizer, so that the staging folder is enough
where there is no hub. Later resolves and the workers read the staged file alone, hash its content again, and need no
TransformerLens.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from erasure_sweep.workers.errors import DataError, SweepError
from erasure_sweep.workers.models.catalog import find_entry, locate
from erasure_sweep.workers.models.checkpoints import SEPARATOR, find_checkpoint, split_point
from erasure_sweep.workers.models.device_memory import refuse_larger_than
from erasure_sweep.workers.models.files.staged_weights import StagedHeader, find_staged, locked, read_staged
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


def resolve_model(spec: str, staging: Path, refresh: bool = False) -> ResolvedModel:
    """Find a model, convert it unless that was done before, and say where its processed weights lie.

    A name of the hub whose weights are staged is taken from the staging folder; neither the hub nor its cache is asked.

    Args:
        spec: a name of the catalog or of TransformerLens, a hub repository or a directory; behind an ``@`` a checkpoint
            or a revision.
        staging: the folder that keeps processed weights, tokenizers and names between runs.
        refresh: ask the hub for what is staged as well.

    Raises:
        UsageError: nothing has this name, or there is no such checkpoint.
        DataError: the model's files cannot be fetched or used, or the model cannot be measured.
    """
    known = None if refresh else _find_known(spec, staging)
    header = find_staged(staged_path(staging, known.fingerprint)) if known else None
    if known is not None and header is not None:
        return _resolved(spec, known, header, staging)
    try:
        source = find_model_files(spec, staging, refresh, refuse_by_config)
        header = _stage_weights(source, staged_path(staging, source.fingerprint))
    except DataError as error:
        if known is None:
            raise
        path = staged_path(staging, known.fingerprint)
        raise DataError(f"staged weights {path} are missing or damaged and cannot be made anew: {error}") from error
    found = _described(spec, source)
    resolved = _resolved(spec, found, header, staging, refresh)
    if source.remote:
        for name in {spec, _canonical(spec, staging) or spec}:
            remember_model(found._replace(spec=name), staging)
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
    with suppress(OSError):  # a file that is missing is refused where it is read
        n_bytes = weights.stat().st_size if isinstance(weights, Path) else len(weights)
        refuse_larger_than(torch.device(device), n_bytes, dtype)
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


def _stage_weights(source: ModelFiles, path: Path) -> StagedHeader:
    """The processed weights of a source, made unless they are there; other processes wait meanwhile."""
    header = find_staged(path)
    if header is not None:
        return header
    with locked(path, source.name):
        header = find_staged(path)
        if header is None:
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed: this one has the lock
                left.unlink(missing_ok=True)
            staged = convert(source, path)
            header = StagedHeader(staged.config, staged.hash)
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


def _resolved(
    spec: str, found: KnownModel, header: StagedHeader, staging: Path, refresh: bool = False
) -> ResolvedModel:
    tokenizer = found.tokenizer
    if tokenizer is not None:
        with suppress(SweepError):  # ready tokens need none; whoever does is told when it is loaded
            tokenizer = stage_tokenizer(tokenizer, staging, refresh)
    return ResolvedModel(
        name=found.name,
        spec=spec,
        weights=staged_path(staging, found.fingerprint),
        hash=header.hash,
        config=header.config,
        tokenizer=tokenizer,
        base=found.base,
        training_tokens=found.training_tokens,
        training_steps=found.training_steps,
    )
