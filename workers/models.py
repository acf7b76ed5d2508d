"""Name, directory, hub name or bundled model → weights as TransformerLens processes them, staged once.

Resolving converts a model once for the content of its files. Later resolves and the workers read the staged file alone,
hash its content again, and need no TransformerLens.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from workers.conversion import convert
from workers.sources import find_source
from workers.staged import find_staged, read_staged
from workers.trace import LeanModel, ModelConfig


class ResolvedModel(NamedTuple):
    """A model whose processed weights are staged."""

    name: str
    """As shown: the bundled or hub name, or the last part of the directory."""
    spec: str
    """What the user typed."""
    weights: Path
    """The staged safetensors file; its metadata holds config, hash and origin."""
    hash: str
    """Of config and processed weights."""
    config: ModelConfig
    tokenizer: str | None
    """Path of a tokenizer.json or of a tokenizer's directory, or a hub repository; None where the model names none."""


def resolve_model(spec: str, staging: Path) -> ResolvedModel:
    """Find a model, convert it unless that was done before, and say where its processed weights lie.

    Args:
        spec: a name of the catalog, a hub repository of Neel Nanda's, or a directory.
        staging: the folder whose ``models/`` keeps processed weights between runs.

    Raises:
        UsageError: nothing has this name.
        DataError: the model's files cannot be fetched or used, or the model cannot be measured.
    """
    source = find_source(spec)
    path = staging / "models" / f"{source.fingerprint}.safetensors"
    staged = find_staged(path)
    if staged is None:
        staged = convert(source, path)
    return ResolvedModel(source.name, spec, path, staged.hash, staged.config, source.tokenizer)


def load_model(
    weights: Path | bytes, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ModelConfig, LeanModel]:
    """A staged model on a device.

    Args:
        weights: the file that ``resolve_model`` names, or its content.
        device, dtype: where and how the forward runs.

    Raises:
        DataError: the file is missing or damaged.
    """
    staged = read_staged(weights)
    return staged.config, LeanModel(staged.config, staged.weights, device, dtype)
